"""The front door of the compiler: a source in, a `Port` out, or `Refused`."""
