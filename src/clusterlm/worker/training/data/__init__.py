"""What is learned: texts as tokens, in the order and the shares that the seed gives them."""
