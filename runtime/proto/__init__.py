"""The contract of services over gRPC: `function_runtime.proto`, and the messages that are made of it.

With a new contract, run `python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. function_runtime.proto` here, with a
grpcio-tools as old as the protobuf that is to be supported: messages made for one version take no older one.
"""
