"""Files at addresses: reading them by http(s) and by fsspec, copies of models, uploads that appear whole."""
