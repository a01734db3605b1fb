"""The edge: gRPC and HTTP servers in front of one engine.

Takes no decision about models; everything it hears comes from outside and is checked against a limit.
"""
