"""What is seen while it trains: steps, memory, speed beside the plan, losses that grow, processes that stand still."""
