"""The convention `aws_lambda`: runs a file that is written for AWS Lambda as it is.

The shape of event follows the way in: API Gateway's (payload 2.0) for an event that came by a route of HTTP, SQS's for a
function with `batch`, EventBridge's for all else. Data that is an event of AWS already is handed on as it is, but never
from a route: there it is what anybody may send.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import msgspec

from runtime import Answer, Context, DataError, Event, Handlers, PartialFailure, Request, codec, hookimpl

from ._forms import FORMS, write_form

ACCOUNT = "000000000000"
EPOCH = datetime.fromtimestamp(0, UTC)
SHAPES: tuple[set[str], ...] = (
    {"requestContext"},  # API Gateway, load balancers, function URLs
    {"authorizationToken", "methodArn"},
    {"detail-type", "detail"},  # EventBridge, schedules
    {"awslogs"},
    {"invocationId", "records"},  # Firehose, Kinesis Analytics
    {"triggerSource", "userPoolId"},  # Cognito
    {"identityPoolId", "datasetRecords"},
    {"CodePipeline.job"},
    {"invokingEvent"},  # Config
    {"RequestType", "StackId"},  # CloudFormation
    {"invocationSchemaVersion", "tasks"},  # S3 Batch
    {"messageVersion", "invocationSource"},  # Lex
    {"labelingJobArn"},  # SageMaker
    {"arguments", "identity", "info"},  # AppSync
    {"session", "request", "version"},  # Alexa
    {"invocationId", "envelope"},  # WorkMail
    {"Name", "Details"},  # Connect
)
"""Keys that stand together in the events of a service of AWS, and hardly elsewhere; most others have records, which say whose they are."""

Handler = Callable[[Any, Any], Any]


class AwsLambda(Handlers):
    """`def handler(event, context)`, as AWS Lambda calls it; one that is called `lambda_handler` need not be named."""

    def find(self, module: ModuleType) -> Mapping[str, Handler]:
        """Return the `lambda_handler` of a file by the name of that, unless it is another file's."""
        handler = getattr(module, "lambda_handler", None)
        home = str(getattr(handler, "__module__", ""))
        if not callable(handler) or (home != module.__name__ and home.startswith("functions.")):
            return {}
        return {module.__name__.partition(".")[2] or module.__name__: handler}

    def adapt(self, handler: Handler, options: Mapping[str, Any]) -> Callable[..., Any] | None:
        """Return a function that calls a handler of two parameters; for batches when `batch` is among the options.

        Raises:
            ValueError: it is async.
        """
        if not _takes_two(handler):
            return None
        if inspect.iscoroutinefunction(handler):
            raise ValueError(
                "expected a `def`, found an `async def`, which AWS Lambda does not know; put @function above it, or make it a `def`"
            )
        if options.get("batch", 1) != 1:
            return _batched(handler)
        return _queued(handler) if "batch" in options else _called(handler)


def _takes_two(handler: Handler) -> bool:
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it is not written in Python, and does not tell
        return True
    return True


def _called(handler: Handler) -> Callable[..., Any]:
    def call(event: Event, context: Context) -> Answer:
        if event.request is None:
            return handler(event.data if _is_of_aws(event.data) else to_eventbridge(event), LambdaContext(context))  # type: ignore[no-any-return]
        answer = handler(to_gateway(event, event.request), LambdaContext(context))
        _check_answer(answer)
        return answer  # type: ignore[no-any-return]

    return call


def _queued(handler: Handler) -> Callable[..., Any]:
    def call(event: Event, context: Context) -> None:
        _take(handler, [event], [context])

    return call


def _batched(handler: Handler) -> Callable[..., Any]:
    def call(event: list[Event], context: list[Context]) -> None:
        _take(handler, event, context)

    return call


def _take(handler: Handler, events: list[Event], contexts: list[Context]) -> None:
    """Call a handler with the messages of a queue.

    Raises:
        PartialFailure: it names some that have failed.
        ValueError: what it names is none of them: all have failed, as with SQS.
    """
    records = [to_sqs(event, context.attempt) for event, context in zip(events, contexts, strict=True)]
    answer: Any = handler({"Records": records}, LambdaContext(contexts[0]))
    failures = answer.get("batchItemFailures") if isinstance(answer, Mapping) else None
    if not failures:
        return
    named = [str(one.get("itemIdentifier")) for one in failures]
    if not set(named) <= {event.id for event in events}:
        raise ValueError(
            "batchItemFailures: expected the `messageId` of records as `itemIdentifier`, found another value; all count as failed"
        )
    raise PartialFailure(dict.fromkeys(named, "named in batchItemFailures"))


class LambdaContext:
    """What a handler may know of its call; the names are those of AWS Lambda."""

    function_version = "$LATEST"
    identity = None
    client_context = None

    def __init__(self, context: Context) -> None:
        self._deadline = context.deadline
        self.aws_request_id = context.event.id
        self.function_name = context.function
        self.invoked_function_arn = f"arn:aws:lambda:{_region()}:{ACCOUNT}:function:{context.function}"
        self.memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        self.log_group_name = f"/aws/lambda/{context.function}"
        self.log_stream_name = f"functions.{context.function}"

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the attempt times out; 0 afterwards."""
        return max(0, round((self._deadline - time.time()) * 1000))


def _check_answer(answer: Any) -> None:
    """See to it that what a handler answers an HTTP request with can be sent.

    Raises:
        DataError: it cannot.
    """
    if isinstance(answer, Mapping) and "statusCode" in answer:
        try:
            msgspec.convert(answer, Answer, strict=False)
        except msgspec.ValidationError as error:
            raise DataError(f"the answer of the handler is not one that API Gateway sends: {error}") from None


# --- the shapes ---------------------------------------------------------------------------------------


def _is_of_aws(data: Any) -> bool:
    """Return whether data is an event of AWS already."""
    if not isinstance(data, Mapping):
        return False
    records = data.get("Records")
    first = records[0] if isinstance(records, list) and records else None
    if isinstance(first, Mapping):
        return "cf" in first or str(first.get("eventSource") or first.get("EventSource")).startswith("aws:")
    return str(data.get("eventSource")).startswith("aws:") or any(shape <= data.keys() for shape in SHAPES)


def to_eventbridge(event: Event) -> dict[str, Any]:
    """Return an event in the shape of EventBridge."""
    return {
        "version": "0",
        "id": event.id,
        "detail-type": event.type,
        "source": event.source,
        "account": ACCOUNT,
        "time": f"{_time(event):%Y-%m-%dT%H:%M:%SZ}",
        "region": _region(),
        "resources": [],
        "detail": _encoded(event.data) if isinstance(event.data, bytes) else event.data,
    }


def to_sqs(event: Event, attempt: int) -> dict[str, Any]:
    """Return an event in the shape of a message of SQS."""
    body, _ = _text(event.data, event.datacontenttype)
    sent = str(_milliseconds(event))
    group = {} if event.key is None else {"MessageGroupId": event.key}
    return {
        "messageId": event.id,
        "receiptHandle": event.id,
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": str(attempt),
            "SentTimestamp": sent,
            "SenderId": event.source,
            "ApproximateFirstReceiveTimestamp": sent,
            **group,
        },
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{_region()}:{ACCOUNT}:{event.type}",
        "awsRegion": _region(),
    }


def to_gateway(event: Event, request: Request) -> dict[str, Any]:
    """Return an event that came by a route in the shape of API Gateway, payload 2.0; JSON is written anew, and says the same."""
    shape: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path,
        "rawQueryString": urlencode(request.query),
        "headers": dict(request.headers),
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": event.type,
            "domainName": request.headers.get("host", ""),
            "domainPrefix": request.headers.get("host", "").partition(".")[0],
            "http": {
                "method": request.method,
                "path": request.path,
                "protocol": "HTTP/1.1",
                "sourceIp": "",
                "userAgent": request.headers.get("user-agent", ""),
            },
            "requestId": event.id,
            "routeKey": "$default",
            "stage": "$default",
            "time": f"{_time(event):%d/%b/%Y:%H:%M:%S +0000}",
            "timeEpoch": _milliseconds(event),
        },
        "isBase64Encoded": False,
    }
    if request.query:
        shape["queryStringParameters"] = dict(request.query)
    if request.params:
        shape["pathParameters"] = dict(request.params)
    if event.data is not None:
        shape["body"], shape["isBase64Encoded"] = _body(event, request.headers.get("content-type", ""))
    return shape


def _body(event: Event, content_type: str) -> tuple[str, bool]:
    """Return the body of a request as text, and whether that is base64; a form, which has become an object, is written anew."""
    if isinstance(event.data, dict) and event.datacontenttype is None and _media_type(content_type) in FORMS:
        return _text(write_form(content_type, event.data), content_type)
    return _text(event.data, event.datacontenttype)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _text(data: Any, media_type: str | None) -> tuple[str, bool]:
    """Return data as text, and whether that is base64."""
    if isinstance(data, bytes):
        kind = _media_type(media_type or "")
        is_text = kind.startswith("text/") or kind.endswith(("json", "xml", "javascript", "x-www-form-urlencoded"))
        try:
            return (data.decode(), False) if is_text else (_encoded(data), True)
        except UnicodeDecodeError:
            return _encoded(data), True
    is_json = (media_type or "").partition(";")[0].endswith("json")
    return (data, False) if isinstance(data, str) and not is_json else (codec.to_json(data).decode(), False)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _time(event: Event) -> datetime:
    return (event.time or EPOCH).astimezone(UTC)


def _milliseconds(event: Event) -> int:
    return round(_time(event).timestamp() * 1000)


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


@hookimpl
def register_conventions() -> dict[str, Handlers]:
    """Offer `aws_lambda`."""
    return {"aws_lambda": AwsLambda()}
