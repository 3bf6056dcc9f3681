"""`geumgo.v1`: the enclave API over gRPC."""
