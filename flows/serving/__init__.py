"""A hypernetwork behind MLflow's prediction interface: an architecture goes in, its parameters come
out.
"""

LIMITS = {
    "max_rows": 16,
    "max_description_characters": 200_000,
    "max_parameters": 700_000_000,  # the largest of torchvision have 633 million
    "max_nodes": 6000,  # of the graph; memory grows with the square, ResNet-1000 has 2346
    "max_inline_bytes": 500_000_000,
    "max_image_size": 1024,
}
"""What a request may ask for; kept in the model, `load_model(..., model_config={...})` and `ghn
serve` override it.
"""
