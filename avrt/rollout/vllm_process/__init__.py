"""A vLLM engine in a process and an environment of its own."""
