"""Export: writes the graphs of a trained model with their proof, as a bundle that needs no Paddle."""
