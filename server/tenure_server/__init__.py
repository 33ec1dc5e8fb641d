"""The coordinator: keeps workflow state, grants leases, and answers every RPC.

Floors, imports run down only: ``app`` wires the parts; ``rpc`` alone knows gRPC and the contract;
``engine`` decides when things happen; ``store`` alone knows the database; ``core`` is pure.
"""
