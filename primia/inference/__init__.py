"""Prediction with a trained model, in the clear and encrypted."""
