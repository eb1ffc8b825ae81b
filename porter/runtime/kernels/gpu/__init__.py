"""The kernels' versions for a GPU, in Triton; imported when a CUDA tensor first comes.

Each module's launcher has the signature of its reference, or says what it adds. With
TRITON_INTERPRET=1 they run on CPU tensors, which is how tests check them anywhere.
"""
