"""Loading a model, finding its layers and experts, and holding its weights while it is worked on."""
