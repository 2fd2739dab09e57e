"""Loading a model, its layers and experts, and its weights while it is worked on."""
