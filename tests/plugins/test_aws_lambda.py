"""Files that are written for AWS Lambda run as they are; what they are given and answer is what AWS documents."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from faults.ledger import until
from running import Running, run

from runtime import Event, Request, RunFailed
from runtime.check import check
from runtime.loading.importer import load
from runtime.testing import Harness

FORM = "application/x-www-form-urlencoded"
Project = Callable[..., Path]

CONFIG = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"""

RECORD = """
import json

def lambda_handler(event, context):
    return json.loads(json.dumps(event))
"""

ROUTES = (
    CONFIG
    + """
[sources.web.routes."/hello/{name}"]
type = "hello"
reply = "result"
methods = ["GET", "POST"]
cors = ["https://shop.example"]
[functions.app]
on = "hello"
"""
)

# the handler of the template "hello world" and of the guide to HTTP APIs, in our words
HELLO = '''
import base64
import json

MISSING = {"statusCode": "404", "body": "nobody"}

def lambda_handler(event, context):
    """Answer as the query asks for."""
    wanted = (event.get("queryStringParameters") or {}).get("as", "text")
    if wanted == "event":
        return event
    if wanted == "missing":
        return MISSING
    if wanted == "image":
        body = base64.b64encode(bytes(range(256))).decode()
        return {"statusCode": 200, "headers": {"Content-Type": "image/png"}, "body": body, "isBase64Encoded": True}
    if wanted == "cookies":
        return {"statusCode": 303, "headers": {"Location": "/", "Content-Length": "7", "X-Count": 3}, "cookies": ["a=1", "b=2; Secure"]}
    if wanted == "empty":
        return {"statusCode": 204}
    if wanted == "split":
        return {"statusCode": 200, "headers": {"x-a": "1\\r\\nset-cookie: a=b"}, "body": ""}
    if wanted == "beyond":
        return {"statusCode": 99}
    return {
        "statusCode": 201,
        "headers": {"Content-Type": "application/json", "X-Via": "lambda", "Access-Control-Allow-Origin": "*"},
        "body": json.dumps({"hello": event["pathParameters"]["name"], "left": 0 < context.get_remaining_time_in_millis() <= 60_000}),
    }
'''


@pytest.fixture
def project(tmp_path: Path) -> Project:
    def write(config: str = CONFIG, **files: str) -> Path:
        (tmp_path / "functions").mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / "functions" / f"{name}.py").write_text(text)
        (tmp_path / "runtime.toml").write_text(config)
        return tmp_path

    return write


def faults_of(folder: Path) -> list[str]:
    return [str(fault) for fault in check(folder / "runtime.toml")[2]]


# --- behind a route -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "functions").mkdir()
    (folder / "functions" / "app.py").write_text(HELLO)
    (folder / "runtime.toml").write_text(ROUTES)
    with Running(folder) as running:
        yield f"{running.web}/hello/ada"


def test_status_headers_and_body_become_the_answer(web: str) -> None:
    answer = httpx.post(web, json={"a": 1})
    assert (answer.status_code, answer.json()) == (201, {"hello": "ada", "left": True})
    assert (answer.headers["content-type"], answer.headers["x-via"]) == ("application/json", "lambda")


def test_the_origins_that_a_route_allows_go_before_what_the_handler_says(web: str) -> None:
    answer = httpx.post(web, headers={"origin": "https://shop.example"})
    assert answer.headers.get_list("access-control-allow-origin") == ["https://shop.example"]


def test_the_event_is_that_of_an_http_api(web: str) -> None:
    answer = httpx.post(f"{web}?as=event&tag=x y", json={"total": 12.5}, headers={"user-agent": "shop/1", "ce-id": "7"})
    event = answer.json()
    assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", "$default", "/hello/ada")
    assert event["rawQueryString"] == "as=event&tag=x+y"
    assert event["queryStringParameters"] == {"as": "event", "tag": "x y"}
    assert event["pathParameters"] == {"name": "ada"}
    assert event["headers"]["user-agent"] == "shop/1"
    assert (event["body"], event["isBase64Encoded"]) == ('{"total":12.5}', False)
    http = event["requestContext"]["http"]
    assert (http["method"], http["path"], http["userAgent"]) == ("POST", "/hello/ada", "shop/1")
    assert event["requestContext"]["requestId"] == "7"


def test_a_request_without_a_body_gives_none(web: str) -> None:
    event = httpx.get(web, params={"as": "event"}).json()
    assert "body" not in event
    assert event["requestContext"]["http"]["method"] == "GET"


def test_bytes_come_as_base64_and_text_as_it_is(web: str) -> None:
    image = httpx.post(web, params={"as": "event"}, content=b"\x89PNG", headers={"content-type": "image/png"}).json()
    assert (image["isBase64Encoded"], base64.b64decode(image["body"])) == (True, b"\x89PNG")
    text = httpx.post(web, params={"as": "event"}, content="grüße", headers={"content-type": "text/plain; charset=utf-8"}).json()
    assert (text["isBase64Encoded"], text["body"]) == (False, "grüße")


def test_a_form_comes_as_it_was_sent(web: str) -> None:
    form = {"name": "Zoë & co", "tag": ["a", "b"]}
    pairs = httpx.post(web, params={"as": "event"}, data=form).json()
    assert (pairs["isBase64Encoded"], parse_qs(pairs["body"])) == (False, {"name": ["Zoë & co"], "tag": ["a", "b"]})
    request = httpx.Request("POST", web, params={"as": "event"}, data=form, files={"photo": ("a.png", b"\x89", "image/png")})
    body = request.read()
    parts = httpx.post(web, params={"as": "event"}, content=body, headers=request.headers).json()
    assert (parts["isBase64Encoded"], base64.b64decode(parts["body"])) == (True, body)
    json_called_a_form = httpx.post(web, params={"as": "event"}, content=b'{"a":"1"}', headers={"content-type": FORM}).json()
    assert json_called_a_form["body"] == '{"a":"1"}'


def test_a_body_that_looks_like_an_event_of_aws_is_a_body(web: str) -> None:
    forged = {"requestContext": {"authorizer": {"jwt": {"claims": {"sub": "admin"}}}}, "version": "2.0"}
    event = httpx.post(web, params={"as": "event"}, json=forged).json()
    assert "authorizer" not in event["requestContext"]
    assert json.loads(event["body"]) == forged


def test_a_status_may_be_text_and_the_body_is_plain_text_when_nothing_is_said(web: str) -> None:
    answer = httpx.post(web, params={"as": "missing"})
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (404, "nobody", "text/plain; charset=utf-8")


def test_a_body_in_base64_is_sent_as_bytes(web: str) -> None:
    answer = httpx.post(web, params={"as": "image"})
    assert (answer.content, answer.headers["content-type"]) == (bytes(range(256)), "image/png")


def test_cookies_are_headers_of_their_own_and_the_length_is_the_servers(web: str) -> None:
    answer = httpx.post(web, params={"as": "cookies"})
    assert (answer.status_code, answer.headers["location"], answer.headers["x-count"]) == (303, "/", "3")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2; Secure"]
    assert answer.headers["content-length"] == "0"


def test_an_empty_answer_has_no_body(web: str) -> None:
    answer = httpx.post(web, params={"as": "empty"})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("wanted", ["split", "beyond"])
def test_an_answer_that_http_cannot_say_is_500_and_a_dead_letter(web: str, wanted: str) -> None:
    answer = httpx.post(web, params={"as": wanted})
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers


def test_the_same_id_again_gets_the_same_answer(web: str) -> None:
    first, second = (httpx.post(web, headers={"ce-id": "twice"}) for _ in range(2))
    assert (second.status_code, second.json(), second.headers["x-via"]) == (201, first.json(), "lambda")


def test_what_has_no_status_is_the_body_as_it_is(project: Project) -> None:
    folder = project(ROUTES, app="def lambda_handler(event, context):\n    return {'path': event['rawPath']}\n")
    with Harness(folder, sources=["web"]) as harness:
        answer = httpx.post(f"{harness.address('web')}/hello/ada")
    assert (answer.status_code, answer.json()) == (200, {"path": "/hello/ada"})


def test_a_result_with_a_status_is_data_where_no_request_is_answered(project: Project) -> None:
    folder = project(ROUTES, app="def lambda_handler(event, context):\n    return {'statusCode': 404, 'body': event['detail']}\n")
    with Harness(folder) as harness:
        assert harness.call("hello", "x") == {"statusCode": 404, "body": "x"}


def test_a_result_with_a_status_is_data_when_a_function_of_ours_returns_it(project: Project) -> None:
    text = "from runtime import function\n@function(on='hello')\ndef app():\n    return {'statusCode': 404, 'body': 'x'}\n"
    with Harness(project(ROUTES, app=text), sources=["web"]) as harness:
        answer = httpx.post(f"{harness.address('web')}/hello/ada")
    assert (answer.status_code, answer.json()) == (200, {"statusCode": 404, "body": "x"})


# --- all other ways in --------------------------------------------------------------------------------


def test_an_event_comes_in_the_shape_of_eventbridge(project: Project) -> None:
    with Harness(project('[functions.app]\non = "order.*"', app=RECORD)) as harness:
        got = harness.call("order.placed", {"total": 5}, id="7", source="shop")
    assert got.pop("time").endswith("Z")
    assert got == {
        "version": "0",
        "id": "7",
        "detail-type": "order.placed",
        "source": "shop",
        "account": "000000000000",
        "region": "us-east-1",
        "resources": [],
        "detail": {"total": 5},
    }


S3 = {"Records": [{"eventVersion": "2.0", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {"object": {"key": "a%2Fb"}}}]}
SNS = {"Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": {"Message": "hello", "Subject": "example"}}]}
SQS = {"Records": [{"messageId": "1", "body": "Hello", "attributes": {"ApproximateReceiveCount": "1"}, "eventSource": "aws:sqs"}]}
KINESIS = {"Records": [{"kinesis": {"data": "SGVsbG8="}, "eventSource": "aws:kinesis", "eventID": "shardId-0:1"}]}
DYNAMODB = {"Records": [{"eventID": "1", "dynamodb": {"Keys": {"Id": {"N": "101"}}}, "eventSource": "aws:dynamodb"}]}
SES = {"Records": [{"eventVersion": "1.0", "eventSource": "aws:ses", "ses": {"mail": {"messageId": "1"}}}]}
CLOUDFRONT = {"Records": [{"cf": {"request": {"uri": "/test"}}}]}
GATEWAY = {"version": "2.0", "routeKey": "$default", "rawPath": "/a", "requestContext": {"http": {"method": "GET"}}}
REST = {"httpMethod": "POST", "path": "/a", "requestContext": {"stage": "prod"}, "body": None}
BALANCER = {"requestContext": {"elb": {"targetGroupArn": "arn"}}, "httpMethod": "GET", "path": "/"}
SCHEDULED = {"version": "0", "id": "1", "detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}
LOGS = {"awslogs": {"data": "H4sI"}}
FIREHOSE = {"invocationId": "1", "deliveryStreamArn": "arn", "records": [{"recordId": "1", "data": "SGVsbG8="}]}
COGNITO = {"version": "1", "triggerSource": "PreSignUp_SignUp", "userPoolId": "1", "request": {}, "response": {}}
CONFIG_RULE = {"invokingEvent": "{}", "ruleParameters": "{}", "eventLeftScope": False}
LEX = {"messageVersion": "1.0", "invocationSource": "DialogCodeHook", "bot": {"name": "OrderFlowers"}}
STACK = {"RequestType": "Create", "StackId": "arn", "ResponseURL": "https://example.com", "RequestId": "1"}
KAFKA = {"eventSource": "aws:kafka", "records": {"topic-0": [{"offset": 15, "value": "SGVsbG8="}]}}
PIPELINE = {"CodePipeline.job": {"id": "1", "data": {}}}
RECORDS = [S3, SNS, SQS, KINESIS, DYNAMODB, SES, CLOUDFRONT, KAFKA]
OTHERS = [GATEWAY, REST, BALANCER, SCHEDULED, LOGS, FIREHOSE, COGNITO, CONFIG_RULE, PIPELINE, LEX, STACK]


def test_data_that_is_an_event_of_aws_already_is_handed_on_as_it_is(project: Project) -> None:
    with Harness(project('[functions.app]\non = "aws"', app=RECORD)) as harness:
        for event in RECORDS + OTHERS:
            assert harness.call("aws", event) == event


@pytest.mark.parametrize("data", [None, 5, "text", [1], {}, {"Records": []}, {"Records": [1]}, {"Records": [{"id": 1}]}, {"cf": 1}])
def test_other_data_is_the_detail(project: Project, data: Any) -> None:
    with Harness(project('[functions.app]\non = "work"', app=RECORD)) as harness:
        assert harness.call("work", data)["detail"] == data


CONTEXT = """
def lambda_handler(event, context):
    names = ("aws_request_id", "function_name", "function_version", "memory_limit_in_mb", "invoked_function_arn",
             "log_group_name", "log_stream_name", "client_context", "identity")
    return [getattr(context, name) for name in names]
"""


def test_the_context_has_the_names_of_lambda(project: Project) -> None:
    with Harness(project('[functions.app]\non = "work"', app=CONTEXT)) as harness:
        assert harness.call("work", id="7") == [
            *("7", "app", "$LATEST", "128", "arn:aws:lambda:us-east-1:000000000000:function:app"),
            *("/aws/lambda/app", "functions.app", None, None),
        ]


# --- with a batch -------------------------------------------------------------------------------------

QUEUE = """
import json, pathlib

def record(event, context):
    with pathlib.Path("seen.jsonl").open("a") as file:
        print(json.dumps(event), file=file)

def handle(event, context):
    record(event, context)
    failed = [record for record in event["Records"] if "bad" in record["body"]]
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}

def strange(event, context):
    return {"batchItemFailures": [{"itemIdentifier": ""}]}

def quiet(event, context):
    return None
"""

QUEUES = (
    CONFIG
    + """
[functions.queue]
handler = "queue.handle"
on = "work"
batch = 3
batch_wait = 5
retries = 1
backoff = 0
[functions.strange]
handler = "queue.strange"
on = "strange"
batch = 2
retries = 0
[functions.quiet]
handler = "queue.quiet"
on = "quiet"
batch = 2
[functions.single]
handler = "queue.handle"
on = "single"
batch = 1
"""
)


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("queues")
    (folder / "functions").mkdir()
    (folder / "functions" / "queue.py").write_text(QUEUE)
    (folder / "runtime.toml").write_text(QUEUES)
    with Running(folder) as running:
        yield running


def send(queues: Running, type: str, **data: Any) -> dict[str, str]:
    """Send events of these ids in one batch, and return how each ended."""
    common = {"specversion": "1.0", "source": "shop", "type": type, "datacontenttype": "application/json"}
    events = [common | {"id": id, "data": one, "partitionkey": f"k{id}"} for id, one in data.items()]
    sent = httpx.post(f"{queues.web}/events", content=json.dumps(events), headers={"content-type": "application/cloudevents-batch+json"})
    assert sent.status_code == 202, sent.text

    def status() -> dict[str, str]:
        return {id: queues.api.get(f"/api/events/{id}").json()["status"] for id in data}

    until(lambda: set(status().values()) <= {"done", "dead"})
    return status()


def test_a_batch_comes_as_records_of_sqs_and_only_those_that_are_named_are_tried_again(queues: Running) -> None:
    assert send(queues, "work", q1="good", q2="bad", q3={"total": 5}) == {"q1": "done", "q2": "dead", "q3": "done"}
    first, again = (json.loads(line)["Records"] for line in (queues.folder / "seen.jsonl").read_text().splitlines()[:2])
    assert [(record["messageId"], record["body"]) for record in first] == [("q1", '"good"'), ("q2", '"bad"'), ("q3", '{"total":5}')]
    record = first[2]
    assert (record["eventSource"], record["awsRegion"]) == ("aws:sqs", "us-east-1")
    assert record["eventSourceARN"] == "arn:aws:sqs:us-east-1:000000000000:work"
    assert record["md5OfBody"] == hashlib.md5(b'{"total":5}').hexdigest()
    assert (record["attributes"]["ApproximateReceiveCount"], record["attributes"]["MessageGroupId"]) == ("1", "kq3")
    assert [(record["messageId"], record["attributes"]["ApproximateReceiveCount"]) for record in again] == [("q2", "2")]


def test_a_name_that_is_in_no_record_fails_them_all(queues: Running) -> None:
    assert send(queues, "strange", s1="a", s2="b") == {"s1": "dead", "s2": "dead"}


def test_a_handler_that_answers_nothing_has_taken_all(queues: Running) -> None:
    assert send(queues, "quiet", y1="a", y2="b") == {"y1": "done", "y2": "done"}


def test_a_batch_of_one_that_is_asked_for_is_a_message_of_sqs_too(queues: Running) -> None:
    assert send(queues, "single", o1="good") == {"o1": "done"}
    seen = [json.loads(line)["Records"] for line in (queues.folder / "seen.jsonl").read_text().splitlines()]
    assert [record["messageId"] for records in seen for record in records if len(records) == 1][-1] == "o1"


# --- functions like any other -------------------------------------------------------------------------


def test_a_handler_that_raises_is_tried_again(project: Project) -> None:
    text = "CALLS = []\ndef lambda_handler(event, context):\n    CALLS.append(1)\n    if len(CALLS) < 3:\n        raise OSError('busy')\n"
    with Harness(project('[functions.app]\non = "work"\nbackoff = 1', app=text)) as harness:
        event = harness.emit("work")
        harness.clock.advance(60)
        assert [(step["status"], step["attempts"]) for step in harness.show(event)["steps"]] == [("done", 3)]


def test_handlers_stand_in_the_graph_and_emit(project: Project) -> None:
    config = """
[functions.validate]
handler = "shop.validate"
on = "order.placed"
[functions.charge]
handler = "shop.charge"
after = "validate"
emits = "order.charged"
"""
    text = "def validate(event, context):\n    return 1\ndef charge(event, context):\n    return {'paid': event['detail']['total']}\n"
    with Harness(project(config, shop=text)) as harness:
        harness.emit("order.placed", {"total": 5})
        assert [event.data for event in harness.events("order.charged")] == [{"paid": 5}]


def test_a_file_in_a_folder_is_called_by_its_path(project: Project) -> None:
    folder = project()
    (folder / "functions" / "hello_world").mkdir()
    (folder / "functions" / "hello_world" / "app.py").write_text(RECORD)
    _, graph, faults = check(folder / "runtime.toml")
    assert not faults
    assert graph is not None
    assert [(function.name, function.where) for function in graph.functions] == [("hello_world.app", "functions/hello_world/app.py:4")]


@pytest.mark.parametrize("handler", ["hello_world.app.lambda_handler", "hello_world/app.lambda_handler"])
def test_a_handler_that_is_named_is_only_the_function_that_names_it(project: Project, handler: str) -> None:
    folder = project(f'[functions.hello]\nhandler = "{handler}"\non = "hello"')
    (folder / "functions" / "hello_world").mkdir()
    (folder / "functions" / "hello_world" / "app.py").write_text(RECORD)
    (folder / "functions" / "again.py").write_text("from .hello_world.app import lambda_handler\n")
    _, graph, faults = check(folder / "runtime.toml")
    assert not faults
    assert graph is not None
    assert [(function.name, function.on) for function in graph.functions] == [("hello", ("hello",))]


def test_a_decorated_handler_and_an_object_are_handlers(project: Project) -> None:
    text = """
import functools

def traced(handler):
    @functools.wraps(handler)
    def call(*args, **kwargs):
        return ["traced", handler(*args, **kwargs)]
    return call

@traced
def lambda_handler(event, context):
    return event["detail"]

class Adapter:
    def __call__(self, event, context):
        return [context.function_name, event["detail"]]

handler = Adapter()
"""
    config = '[functions.app]\non = "a"\n[functions.object]\nhandler = "app.handler"\non = "b"'
    with Harness(project(config, app=text)) as harness:
        assert harness.call("a", 1) == ["traced", 1]
        assert harness.call("b", 2) == ["object", 2]


def test_invoke_calls_a_handler_by_its_name(project: Project) -> None:
    folder = project('[functions.hello]\nhandler = "app.handle"', app="def handle(event, context):\n    return event\n")
    done = run(folder, "invoke", "hello", "-d", json.dumps(S3))
    assert (done.returncode, json.loads(done.stdout)) == (0, S3)
    assert json.loads(run(folder, "invoke", "hello", "-d", "5").stdout)["detail"] == 5


def test_a_failure_names_the_line_of_the_handler(project: Project) -> None:
    with Harness(project('[functions.app]\non = "work"\nretries = 0', app="def lambda_handler(event, context):\n    1 / 0\n")) as harness:
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            harness.call("work")
        assert "app.py" in harness.show(harness.dead()[0])["steps"][0]["error"]["traceback"]


# --- faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (
            "ap.handle",
            ('expected FILE.FUNCTION of a file in functions/, found no file "ap" (did you mean "app"?); correct it, or make the file'),
        ),
        ("app.handel", 'expected a function of functions/app.py, found no "handel" there (did you mean "handle"?); correct the name'),
        ("app.LIMIT", 'expected a function, found that "LIMIT" of functions/app.py is a value of type int; name a function'),
        ("app.ours", 'expected a handler, found that "ours" of functions/app.py is a @function; remove the key, or the decorator'),
        ("handle", 'expected FILE.FUNCTION, as in "orders.lambda_handler" for functions/orders.py, found "handle"'),
    ],
)
def test_a_handler_that_is_not_there_is_a_fault_with_the_nearest_name(project: Project, handler: str, fault: str) -> None:
    text = "from runtime import function\nLIMIT = 5\ndef handle(event, context): pass\n@function\ndef ours(): pass\n"
    folder = project(f'[functions.a]\nhandler = "{handler}"', app=text)
    assert faults_of(folder) == [f"runtime.toml [functions.a] handler: {fault}"]


def test_a_handler_of_no_known_kind_is_a_fault_at_its_line(project: Project) -> None:
    folder = project('[functions.a]\nhandler = "app.handle"', app="\ndef handle(event): pass\n")
    assert faults_of(folder) == [
        (
            'functions/app.py:2: handler "a": it is written in none of the ways that are known; rewrite it in one of them: '
            "`def handler(event, context)`, as AWS Lambda calls it; one that is called `lambda_handler` need not be named.; "
            "`@functions_framework.cloud_event` above `def handler(cloud_event)`; it need not be named."
        )
    ]


def test_a_handler_cannot_be_isolated(project: Project) -> None:
    (fault,) = faults_of(project("[functions.app]\nisolate = true", app=RECORD))
    assert fault.startswith('functions/app.py:4: "app" cannot be isolated')


def test_an_async_handler_is_a_fault(project: Project) -> None:
    assert faults_of(project(app="async def lambda_handler(event, context): pass\n")) == [
        (
            'functions/app.py:1: handler "app": expected a `def`, found an `async def`, which AWS Lambda does not know; '
            "put @function above it, or make it a `def`"
        )
    ]


def test_a_handler_that_is_declared_is_a_function_of_ours(project: Project) -> None:
    text = "from runtime import function\n@function(on='work')\ndef lambda_handler(data):\n    return data\n"
    with Harness(project(app=text)) as harness:
        assert harness.call("work", 5) == 5


# --- reload -------------------------------------------------------------------------------------------


def test_a_handler_of_an_unchanged_file_is_not_changed_by_a_reload(tmp_path: Path) -> None:
    from runtime.loading.generation import make_generation
    from runtime.plugins import load_conventions
    from runtime.settings import Settings
    from runtime.testing import VirtualClock

    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "app.py").write_text(RECORD)
    settings = Settings(path=tmp_path / "runtime.toml")
    conventions = load_conventions(settings, VirtualClock())
    modules = load(tmp_path / "functions", None, conventions)
    first = make_generation(modules, settings, None, time=0.0, began=0.0)
    (tmp_path / "functions" / "more.py").write_text(RECORD)
    second = make_generation(load(tmp_path / "functions", modules, conventions), settings, first, time=0.0, began=0.0)
    assert (second.change.added, second.change.changed) == (("more",), ())
    assert second.graph.by_name["app"].call is first.graph.by_name["app"].call
    (tmp_path / "functions" / "app.py").write_text(RECORD + "\n# more\n")
    third = make_generation(load(tmp_path / "functions", second.modules, conventions), settings, second, time=0.0, began=0.0)
    assert third.change.changed == ("app",)


def test_a_request_of_any_source_is_answered_in_the_same_way(project: Project) -> None:
    from runtime import Answer

    with Harness(project(ROUTES, app=HELLO)) as harness:
        event = Event(type="hello", source="s", request=Request("GET", "/", {"name": "x"}, {"as": "missing"}))
        answer = harness.call("hello", request=event.request)
    assert answer == Answer(status=404, body="nobody")
