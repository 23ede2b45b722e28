"""Models: parameters and forward pass. Knows arrays; never data, meshes or files."""
