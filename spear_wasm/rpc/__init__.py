"""The gRPC door: services, the conversion between messages and our values, and the server's life."""
