"""Where encoded images come from: Parquet, folder trees, torchvision data sets, digits."""
