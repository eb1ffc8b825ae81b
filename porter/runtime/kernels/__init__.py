"""One kernel a file; layers call them through `Kernel`, never a device's version."""
