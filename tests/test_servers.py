"""Each server starts, loses nothing that it has taken when it is killed, and starts again where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiormq
import asyncpg
import nats
import nats.errors
import pytest
import redis.asyncio
import zmqtt
from confluent_kafka import Consumer, Producer
from nats.aio.client import Client
from servers import PASSWORD, USER, Kafka, Nats, Server, program, promised, unavailable


def restarted(server: Server) -> None:
    """Kill a server and start it again."""
    before = server.url
    server.kill()
    server.start()
    assert server.url == before


async def test_nats_keeps_what_a_stream_has(nats_server: Server) -> None:
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(name="kept", subjects=["kept"])
    await client.jetstream().publish("kept", b"1")
    await client.close()
    restarted(nats_server)
    client = await nats.connect(nats_server.url)
    assert (await client.jetstream().get_msg("kept", 1)).data == b"1"
    await client.close()


async def test_redis_keeps_what_is_written(redis_server: Server) -> None:
    async with redis.asyncio.from_url(redis_server.url) as client:
        await client.set("kept", "1")
    restarted(redis_server)
    async with redis.asyncio.from_url(redis_server.url) as client:
        assert await client.get("kept") == b"1"


async def test_rabbitmq_keeps_what_is_confirmed(rabbitmq_server: Server) -> None:
    connection = await aiormq.connect(rabbitmq_server.url)
    channel = await connection.channel()
    await channel.queue_declare("kept", durable=True)
    await channel.basic_publish(b"1", routing_key="kept", properties=aiormq.spec.Basic.Properties(delivery_mode=2))
    await connection.close()
    restarted(rabbitmq_server)
    connection = await aiormq.connect(rabbitmq_server.url)
    channel = await connection.channel()
    found = await channel.basic_get("kept", no_ack=True)
    assert found.body == b"1"
    await connection.close()


async def test_mosquitto_keeps_what_is_retained(mosquitto_server: Server) -> None:
    async with zmqtt.create_client("127.0.0.1", mosquitto_server.port, client_id="keeper") as client:
        await client.publish("kept", b"1", qos=zmqtt.QoS.AT_LEAST_ONCE, retain=True)
    await asyncio.to_thread(restarted, mosquitto_server)
    async with zmqtt.create_client("127.0.0.1", mosquitto_server.port, client_id="keeper") as client, client.subscribe("kept") as messages:
        assert (await anext(aiter(messages))).payload == b"1"


async def test_postgres_keeps_what_is_committed(postgres_server: Server) -> None:
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute("CREATE TABLE kept (id int)")
    await connection.execute("INSERT INTO kept VALUES (1)")
    await connection.close()
    restarted(postgres_server)
    connection = await asyncpg.connect(postgres_server.url)
    assert await connection.fetchval("SELECT id FROM kept") == 1
    await connection.close()


def test_kafka_keeps_what_is_acknowledged(kafka_server: Server) -> None:
    producer = Producer({"bootstrap.servers": kafka_server.url})
    producer.produce("kept", b"1")
    assert producer.flush(10) == 0
    restarted(kafka_server)
    consumer = Consumer({"bootstrap.servers": kafka_server.url, "group.id": "keeper", "auto.offset.reset": "earliest"})
    consumer.subscribe(["kept"])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None
    assert message.value() == b"1"


async def test_guarded_servers_ask_for_the_password(
    guarded_nats_server: Server, guarded_redis_server: Server, guarded_mosquitto_server: Server
) -> None:
    stranger = Client()
    with pytest.raises(nats.errors.Error):
        await stranger.connect(guarded_nats_server.url, allow_reconnect=False)
    await stranger.close()
    await (await nats.connect(guarded_nats_server.url, user=USER, password=PASSWORD)).close()
    with pytest.raises(redis.exceptions.AuthenticationError):
        async with redis.asyncio.from_url(guarded_redis_server.url) as client:
            await client.ping()
    with pytest.raises(zmqtt.MQTTError):
        async with zmqtt.create_client("127.0.0.1", guarded_mosquitto_server.port):
            pass


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers.program", lambda *_: None)
    monkeypatch.delenv(Nats.variable(), raising=False)


@pytest.mark.parametrize(("ci", "raised"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
@pytest.mark.usefixtures("nothing_installed")
def test_a_promised_server_that_is_missing_is_a_failure_in_ci(
    ci: str, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(raised, match="nats-server is not installed, and TEST_NATS_URL is not set"):
        next(Nats.serving())


@pytest.mark.usefixtures("nothing_installed")
def test_another_server_is_taken_by_its_address_and_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(Nats.variable(), "nats://elsewhere:4222")
    server = next(Nats.serving())
    assert server.url == "nats://elsewhere:4222"
    with pytest.raises(pytest.skip.Exception, match="cannot be killed"):
        server.kill()


def test_what_is_not_promised_is_skipped_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception):
        unavailable("ibmmq", "it is not installed")


def test_all_servers_that_are_here_are_promised() -> None:
    def kinds(kind: type[Server]) -> set[str]:
        return {one.name for one in kind.__subclasses__()}

    assert promised() == kinds(Server)
    assert Kafka.name in promised()


@pytest.mark.parametrize("find", [lambda: program("python"), lambda: program("sh")])
def test_a_program_is_found_beside_python_or_on_the_path(find: Callable[[], str | None]) -> None:
    assert find()
