"""The servers, for every test that asks for one."""

from servers import (
    guarded_mosquitto_server,
    guarded_nats_server,
    guarded_redis_server,
    guarded_s3_server,
    kafka_server,
    mosquitto_server,
    nats_server,
    postgres_server,
    rabbitmq_server,
    redis_server,
    s3_server,
)

__all__ = [
    "guarded_mosquitto_server",
    "guarded_nats_server",
    "guarded_redis_server",
    "guarded_s3_server",
    "kafka_server",
    "mosquitto_server",
    "nats_server",
    "postgres_server",
    "rabbitmq_server",
    "redis_server",
    "s3_server",
]
