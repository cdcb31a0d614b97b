"""What openapi.yaml cannot tell schemathesis: whom to log in as, how strictly to read it, and which bounds count bytes."""

import json

import requests
import schemathesis
from schemathesis.core.parameters import ParameterLocation

COOKIE = "connect.sid"
# Some of the JSON Patches that schemathesis thinks of fit this: they like short names.
DATA = {"": {"": {"": [0, {}]}}, "0": {"0": 0}, "theme": "dark"}
# Bytes, where the contract's maxLength counts characters.
CLIENT_BYTES = {"ip": 64, "user_agent": 1024, "label": 256}
USER_ID_BYTES = 256
DATA_BYTES = 64 * 1024
DATA_DEPTH = 64


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Reads the contract more strictly than it is written, so that the checks can fail."""
    answers = []
    for path in raw_schema["paths"].values():
        for method, operation in path.items():
            if method == "parameters":
                continue
            responses = operation["responses"]
            answers.append(responses)
            # With `default` any status conforms: say which problems there are that are not named.
            default = responses.pop("default", None)
            problems = ["400"] if operation.get("parameters") else []
            if "requestBody" in operation:
                problems = ["400", "413", "415", "422"]
            for status in problems if default else []:
                responses.setdefault(status, default)
            for response in responses.values():
                for header in response.get("headers", {}).values():
                    header["required"] = True
    close(answers, raw_schema, set())


def close(node, root, seen):
    """Lets the objects of an answer have no other fields than those that are named."""
    if isinstance(node, list):
        for item in node:
            close(item, root, seen)
    elif isinstance(node, dict):
        name = node.get("$ref")
        if isinstance(name, str) and name not in seen:
            seen.add(name)
            close(root["components"]["schemas"][name.rsplit("/", 1)[-1]], root, seen)
        if isinstance(node.get("properties"), dict):
            node.setdefault("additionalProperties", False)
        for item in node.values():
            close(item, root, seen)


@schemathesis.auth(refresh_interval=None)
class Session:
    """A session of its own for each request, so that none ends another's. `ignored_auth` asks without and with a forged one."""

    def get(self, case, context):
        security = case.operation.definition.raw.get("security", [])
        # Where the cookie may be left out, it is in one of the phases.
        left_out = {} in security and case.meta.phase.name.value == "coverage"
        if left_out or not any("cookie" in scheme for scheme in security):
            return None
        url = f"{case.operation.base_url}/v1/sessions"
        issued = requests.post(url, json={"user_id": "ada", "data": DATA}, timeout=5)
        assert issued.status_code == 201, f"there is no session to test with: {issued.status_code} {issued.text}"
        return issued

    def set(self, case, issued, context):
        case.cookies = {**(case.cookies or {}), COOKIE: issued.cookies[COOKIE]}
        # A made up ETag never matches. Half of them become the right one, and all that would hide what is wrong with a body.
        tags = (case.headers or {}).get("If-Match")
        wrong_body = case.meta.is_negative_at(ParameterLocation.BODY)
        if isinstance(tags, str) and (wrong_body or len(tags) % 2 == 0):
            case.headers["If-Match"] = issued.headers["ETag"]


@schemathesis.hook
def filter_case(context, case):
    """Drops what the contract allows, but for a bound that it only tells in words."""
    body = case.body
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return True
    if case.media_type == "application/json-patch+json":
        return all(operation["path"] != "" or keeps_an_object(operation) for operation in body)
    if not isinstance(body, dict):
        return True
    if case.operation.path.endswith("/data"):
        return fits(body)
    client = body.get("client") or {}
    return (
        short(body.get("user_id"), USER_ID_BYTES)
        and all(short(client.get(name), limit) for name, limit in CLIENT_BYTES.items())
        and fits(body.get("data") or {})
    )


def keeps_an_object(operation):
    """Whether an operation on the whole of the data leaves an object; what `move` and `copy` leave, one cannot say here."""
    return operation["op"] in ("remove", "test") or isinstance(operation.get("value"), dict)


def short(text, limit):
    """Whether text within its maxLength is so in bytes too; beyond it, the contract answers for itself."""
    return not len(text or "") <= limit < size(text or "")


def size(text):
    return len(text.encode())


def fits(data):
    return depth(data) <= DATA_DEPTH and size(json.dumps(data, ensure_ascii=False, separators=(",", ":"))) <= DATA_BYTES


def depth(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)
