"""As much of a W&B server as a run needs: wandb's real service sends to it over HTTP.

Like the real one it keeps a run's history by the offset at which lines are put, and tells who
resumes a run how long it is.
"""

import gzip
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = "someone"


class FakeWandb:
    """A server on loopback; a context manager. `runs` are by project and id."""

    def __init__(self):
        self.runs = {}
        self.is_refusing = False  # to take what a run sends
        self.deleted = set()  # ids of runs that it never takes again
        self.stopped = set()  # ids of runs that somebody pressed Stop for
        self.answer_seconds = 0.0  # that it takes over each question
        self.seconds = {}  # that it takes over what runs send, by their ids
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def epochs(self, project, name, axis="epoch"):
        lines = self.runs[project, name]["history"]
        return [json.loads(lines[offset])[axis] for offset in sorted(lines)]

    def ask(self, operation, variables):
        """Answer a question of GraphQL."""
        time.sleep(self.answer_seconds)
        if operation == "RunResumeStatus":
            run = self.runs.get((variables["project"], variables["name"]))
            return {"model": {**_named("p"), "entity": _named(ENTITY), "bucket": _resumed(run)}}
        if operation == "UpsertBucket":
            return {"upsertBucket": {"bucket": self._upsert(variables), "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/put/{n}"} for n in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, project, name, files):
        """Take lines of a run's files."""
        run = self.runs[project, name]
        history = files.get("wandb-history.jsonl")
        if history:
            run["history"] |= dict(enumerate(history["content"], start=history["offset"]))
        if "wandb-summary.json" in files:
            run["summary"] = json.loads(files["wandb-summary.json"]["content"][-1])

    def _upsert(self, variables):
        project, name = variables["project"], variables["name"]
        run = self.runs.setdefault((project, name), {"history": {}, "summary": {}})
        run |= {key: value for key, value in variables.items() if value is not None}
        entity = {"id": "e", "name": variables.get("entity") or ENTITY}
        shown = run.get("displayName")
        owner = {"id": "p", "name": project, "entity": entity}
        about = {"displayName": shown, "config": "{}", "historyLineCount": len(run["history"])}
        return {"id": "b", "name": name, "project": owner, **about}


def _named(name):
    return {"id": "i", "name": name}


def _resumed(run):
    if run is None:
        return None
    lines = run["history"]
    last = [lines[max(lines)]] if lines else []
    return {
        **_named("b"),
        "summaryMetrics": json.dumps(run["summary"]),
        "displayName": run["displayName"],
        "historyLineCount": len(lines),
        "historyTail": json.dumps(last),
        "logLineCount": 0,
        "eventsLineCount": 0,
        "eventsTail": "[]",
        "config": run["config"],
        "tags": run["tags"],
        "wandbConfig": json.dumps({"t": 1}),
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *_):
        """Keep quiet."""

    def do_POST(self):
        body, fake = self._read(), self.server.fake
        if self.path == "/graphql":
            content = json.loads(body)
            operation = re.search(r"(?:query|mutation) (\w+)", content["query"])[1]
            variables = content.get("variables") or {}
            if operation == "UpsertBucket" and variables["name"] in fake.deleted:
                said = f"run {variables['name']} was previously created and deleted"
                self._answer({"errors": [{"message": said}], "data": {"upsertBucket": None}})
                return
            self._answer({"data": fake.ask(operation, variables)})
        elif self.path.endswith("/file_stream") and fake.is_refusing:
            self._answer({}, 403)
        elif self.path.endswith("/file_stream"):
            _, _, _, project, name, _ = self.path.split("/")
            time.sleep(fake.seconds.get(name, 0.0))
            fake.stream(project, name, json.loads(body).get("files") or {})
            self._answer({"stopped": name in fake.stopped})
        else:  # how wandb itself is doing
            self._answer({})

    def do_PUT(self):
        self._read()
        self._answer({})

    def _read(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_packed = self.headers.get("Content-Encoding") == "gzip"
        return gzip.decompress(body) if is_packed else body

    def _answer(self, content, status=200):
        answer = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class _Server(ThreadingHTTPServer):
    fake: FakeWandb

    def handle_error(self, *_):
        """Keep quiet about who hangs up."""
