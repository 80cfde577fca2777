"""torch's own operator database as judge of the device: __main__.py sweeps, tests/ops/test_opinfo.py is for CI."""
