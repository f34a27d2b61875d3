"""Will this language model run on my cluster, how, at what price: answers it, then does it."""

__version__ = "0.1.0"
