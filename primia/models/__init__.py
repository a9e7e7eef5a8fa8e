"""Networks: the registry, the flat vector, the model file."""
