"""Protobuf messages and gRPC stubs, generated from `proto/` by `scripts/generate-proto`."""
