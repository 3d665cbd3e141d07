"""Changes of a weight matrix, one family a file: low rank, Kronecker product, tensor rings. They hold no tensors."""
