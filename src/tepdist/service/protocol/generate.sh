#!/usr/bin/env bash
# Writes the Python stubs of tepdist.proto beside it. Needs grpcio-tools; use the
# oldest supported one, for generated code runs on its own protobuf and newer.
set -euo pipefail
cd "$(dirname "$0")"
"${PYTHON:-python}" -m grpc_tools.protoc -I. \
    --python_out=. --pyi_out=. --grpc_python_out=. tepdist.proto
# The stubs must load from this package and, copied, without it.
sed -i 's/^import tepdist_pb2 as tepdist__pb2$/try:\n    from . import tepdist_pb2 as tepdist__pb2\nexcept ImportError:\n    import tepdist_pb2 as tepdist__pb2/' \
    tepdist_pb2_grpc.py
