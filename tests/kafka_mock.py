"""The mock cluster that librdkafka carries, as a process: says where its brokers are, and takes them `down` and `up` as it is told."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import confluent_kafka

BROKERS = 1
PRODUCER = 0  # rd_kafka_type_t
DELAY = 50  # milliseconds that a group waits for its first members; three seconds by default


def library() -> ctypes.CDLL:
    """Return the library that the package brings with it."""
    folder = Path(confluent_kafka.__file__).parent
    found = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/librdkafka*"), *folder.glob("cimpl*.so")]
    return ctypes.CDLL(str(found[0]))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    kafka = library()
    kafka.rd_kafka_conf_new.restype = ctypes.c_void_p
    kafka.rd_kafka_new.restype = ctypes.c_void_p
    kafka.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    kafka.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    kafka.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    kafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    kafka.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    error = ctypes.create_string_buffer(512)
    handle = kafka.rd_kafka_new(PRODUCER, kafka.rd_kafka_conf_new(), error, len(error))
    assert handle, error.value
    cluster = kafka.rd_kafka_mock_cluster_new(handle, BROKERS)
    kafka.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, DELAY)
    switches = {"down": kafka.rd_kafka_mock_broker_set_down, "up": kafka.rd_kafka_mock_broker_set_up}
    for switch in switches.values():
        switch.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    say(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    for line in sys.stdin:
        for broker in range(1, BROKERS + 1):
            assert switches[line.strip()](cluster, broker) == 0
        say(line.strip())


if __name__ == "__main__":
    main()
