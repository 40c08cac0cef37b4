"""The protocol: `tepdist.proto` and the stubs made from it by `generate.sh`."""
