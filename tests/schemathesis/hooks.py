"""What schemathesis has to know beyond openapi.yaml."""

import json

import requests
import schemathesis

# Limits that JSON Schema gives in characters and the service counts in bytes.
BYTES = {("user_id",): 256, ("client", "ip"): 64, ("client", "user_agent"): 1024, ("client", "label"): 256}
# Limits that JSON Schema cannot give.
DATA_BYTES, DATA_DEPTH = 65_536, 64


@schemathesis.auth(refresh_interval=None).apply_to(path_regex="^/v1/session(/|$)")
class FreshSession:
    """Each call has a session of its own, so that revoking and regenerating starve no other."""

    def get(self, case, context):
        new = {"user_id": "ada", "data": {"theme": "dark", "n": 1}}
        answer = requests.post(f"{case.operation.base_url}/v1/sessions", json=new, timeout=10)
        answer.raise_for_status()
        return answer.json()["set_cookie"].split(";")[0].split("=", 1)

    def set(self, case, cookie, context):
        name, value = cookie
        case.cookies = {**(case.cookies or {}), name: value}


def depth(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


@schemathesis.hook
def map_headers(context, headers):
    """Half of the made-up If-Match headers become one that matches, so that the bodies behind them are tried too."""
    tag = (headers or {}).get("If-Match")
    if isinstance(tag, str) and len(tag) % 2 == 0:
        headers["If-Match"] = "*"
    return headers


@schemathesis.hook
def filter_body(context, body):
    """Leaves out what the contract allows and a limit that it cannot tell does not."""
    if not isinstance(body, (dict, list)):
        return True
    for path, limit in BYTES.items():
        value = body
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str) and len(value) <= limit < len(value.encode("utf-8", "surrogatepass")):
            return False
    text = json.dumps(body, ensure_ascii=False)
    # A lone surrogate is JSON to some and not to others.
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        return False
    return len(text.encode()) <= DATA_BYTES and depth(body) <= DATA_DEPTH
