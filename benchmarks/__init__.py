"""PyTorch twins of the models, and the benchmark against them."""
