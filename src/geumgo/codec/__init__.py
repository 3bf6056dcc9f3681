"""Strict CBOR, COSE and BER pieces that two or more rooms need."""
