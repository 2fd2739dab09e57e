"""GGUF files for llama.cpp: every tensor in its planned type."""
