"""What openapi.yaml cannot tell schemathesis: whom to log in as, how strictly to read it, and which bounds count bytes."""

import json
import os

import requests
import schemathesis
from schemathesis.core.parameters import ParameterLocation

COOKIE = "connect.sid"
KEY = {"Authorization": f"Bearer {os.environ['SESSIOND_KEY']}"}
# Some of the JSON Patches that schemathesis thinks of fit this: they like short names.
DATA = {"": {"": {"": [0, {}]}}, "0": {"0": 0}, "theme": "dark"}
# Bytes, where the contract's maxLength counts characters.
CLIENT_BYTES = {"ip": 64, "user_agent": 1024, "label": 256}
USER_ID_BYTES = 256
ID_BYTES = 256
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
    """The caller's key, and a session of its own for each request, so that none ends another's. `ignored_auth` asks without
    and with forged ones."""

    def get(self, case, context):
        if not case.operation.definition.raw.get("security"):
            return None
        url = f"{case.operation.base_url}/v1/sessions"
        issued = requests.post(url, json={"user_id": "ada", "data": DATA}, headers=KEY, timeout=5)
        assert issued.status_code == 201, f"there is no session to test with: {issued.status_code} {issued.text}"
        return issued

    def set(self, case, issued, context):
        case.headers = {**(case.headers or {}), **KEY}
        security = case.operation.definition.raw["security"]
        # Where the cookie may be left out, it is in one of the phases.
        left_out = case.meta.phase.name.value == "coverage" and any("cookie" not in scheme for scheme in security)
        if any("cookie" in scheme for scheme in security) and not left_out:
            case.cookies = {**(case.cookies or {}), COOKIE: issued.cookies[COOKIE]}
        if "id" in (case.path_parameters or {}) and not case.meta.is_negative_at(ParameterLocation.PATH):
            case.path_parameters["id"] = issued.json()["id"]
        # A made up ETag never matches. Half of them become the right one, and all that would hide what is wrong with a body.
        tags = (case.headers or {}).get("If-Match")
        wrong_body = case.meta.is_negative_at(ParameterLocation.BODY)
        if isinstance(tags, str) and (wrong_body or len(tags) % 2 == 0):
            case.headers["If-Match"] = issued.headers["ETag"]


@schemathesis.hook
def filter_case(context, case):
    """Drops what the contract allows, but for a bound that it only tells in words."""
    body = case.body
    # It insists on 401 for a caller without a key, and here that is 403: tests/api/keys.rs tries these.
    if case.meta is not None and getattr(case.meta.phase.data, "parameter", None) == "Authorization":
        return False
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return True
    if not short((case.path_parameters or {}).get("user_id"), USER_ID_BYTES):
        return False
    if not short((case.query or {}).get("except"), ID_BYTES):
        return False
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
