"""The reward ``remote`` against a service that does what the response says, in a scorer's own processes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.schema import Reward
from llmrl.rewards import Judgement, Sample, build_rewards
from llmrl.rewards.scoring.scorer import Scorer

MakeScorer = Callable[..., Awaitable[Scorer]]

ANSWERS: dict[str, bytes] = {
    "good": b'{"score": 0.75, "note": "well said"}',
    "true": b'{"score": true}',
    "abstain": b'{"abstain": "not my field"}',
    "error": b'{"error": "the judge is ill"}',
    "nan": b'{"score": NaN}',
    "null": b'{"score": null}',
    "text": b'{"score": "1.0"}',
    "both": b'{"score": 1.0, "abstain": true}',
    "list": b"[1.0]",
    "html": b"<html>hello</html>",
    "long": b'{"score": 1.0, "note": "' + b"x" * 2**22 + b'"}',
}


class Service(BaseHTTPRequestHandler):
    """Answers by the response of the sample, and counts how often it was asked for each."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    seen: ClassVar[list[dict[str, Any]]] = []
    tokens: ClassVar[list[str | None]] = []
    closing: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        sample = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        deed = sample["response"]
        self.asked[deed] += 1
        self.seen.append(sample)
        self.tokens.append(self.headers["Authorization"])
        self._do(deed)

    def _do(self, deed: str) -> None:
        if deed == "hang":
            self.closing.wait(60)
        elif deed == "slow":
            self.closing.wait(0.5)
            self._answer(200, ANSWERS["good"])
        elif deed == "trickle":
            self._trickle()
        elif deed == "truncated" or (deed == "once truncated" and self.asked[deed] == 1):
            self._answer(200, b'{"score"', length=100)
        elif deed == "500" or (deed == "twice 503" and self.asked[deed] < 3):
            self._answer(500 if deed == "500" else 503, b"out of order")
        elif deed == "moved":
            self._answer(307, b"", location="http://127.0.0.1:1/")
        else:
            self._answer(200, ANSWERS.get(deed, ANSWERS["good"]))

    def _answer(self, status: int, body: bytes, *, length: int | None = None, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None

    def _trickle(self) -> None:
        self._answer(200, b"{", length=1000)
        while not self.closing.wait(0.1):
            self.wfile.write(b" ")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Quiet(ThreadingHTTPServer):
    """Does not mind who hangs up."""

    request_queue_size = 64
    """Connections at once; of more than 5 the system would refuse some."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Service.asked.clear()
    Service.seen.clear()
    Service.tokens.clear()
    Service.closing.clear()
    server = Quiet(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/judge"
    Service.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


def sample(response: str) -> Sample:
    return Sample(prompt="2 + 3?", response=response, answer="5", tokens=1, finished=True)


async def judged(make: MakeScorer, url: str, *responses: str, **options: Any) -> tuple[Judgement, ...]:
    rewards = {"judge": {"kind": "remote", "options": {"url": url, **options}}}
    scorer = await make(rewards, deadline_s=5.0)
    judgements = await scorer.judge([sample(response) for response in responses])
    assert scorer.take_statistics()["judgement/restarts"] == 0
    return judgements


async def test_a_service_scores_abstains_and_sees_the_whole_sample(scorer_of: MakeScorer, url: str) -> None:
    good, true, abstained = await judged(scorer_of, url, "good", "true", "abstain")

    assert (good.status, good.reward) == ("score", 0.75)
    assert good.note == "rewards.judge well said"
    assert true.reward == 1.0
    assert (abstained.status, abstained.note) == ("abstain", "rewards.judge abstained: not my field")
    seen = next(each for each in Service.seen if each["response"] == "good")
    assert (seen["prompt"], seen["answer"], seen["tokens"], seen["finished"]) == ("2 + 3?", "5", 1, True)


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("error", "reports an error: 'the judge is ill'"),
        ("nan", "returned Score(value=nan"),
        ("null", "answered {'score': None}; an object with a number as score"),
        ("text", "answered {'score': '1.0'}; an object with a number as score"),
        ("both", "answered {'score': 1.0, 'abstain': True}; an object"),
        ("list", "answered [1.0]; an object"),
        ("html", "answered '<html>hello</html>'; an object"),
        ("long", "failed: the answer is longer than 4194304 bytes."),
        ("truncated", "failed: peer closed connection without sending complete message body"),
        ("500", "failed: status 500, 'out of order'"),
        ("moved", "refused: status 307, ''"),
        ("hang", "gave no whole answer within 1 s (options.seconds)"),
        ("trickle", "gave no whole answer within 1 s (options.seconds)"),
    ],
)
async def test_what_is_no_verdict_is_an_error_that_is_asked_for_once_and_costs_nobody_else(
    scorer_of: MakeScorer, url: str, deed: str, says: str
) -> None:
    start = time.monotonic()
    bad, good = await judged(scorer_of, url, deed, "good", seconds=1.0)

    assert time.monotonic() - start < 20
    assert (bad.status, bad.reward) == ("error", None)
    assert says in bad.note
    assert good.reward == 0.75
    assert Service.asked[deed] == 1


@pytest.mark.parametrize(("deed", "asked"), [("once truncated", 2), ("twice 503", 3)])
async def test_passing_failures_are_tried_again_if_that_does_no_harm(
    scorer_of: MakeScorer, url: str, deed: str, asked: int
) -> None:
    (judgement,) = await judged(scorer_of, url, deed, idempotent=True)

    assert judgement.reward == 0.75
    assert Service.asked[deed] == asked


async def test_tries_end_with_the_time_and_say_how_many_there_were(scorer_of: MakeScorer, url: str) -> None:
    (judgement,) = await judged(scorer_of, url, "500", idempotent=True, seconds=3.0)

    # Pauses of 0.1, 0.2, 0.4 and 0.8 s fit, on a slow machine fewer; one of 1.6 s does not.
    tries = Service.asked["500"]
    assert 3 <= tries <= 5
    assert f"status 500, 'out of order', after {tries - 1} earlier tries (status 500" in judgement.note
    assert judgement.seconds < 3.0


async def test_slow_answers_are_awaited_together(scorer_of: MakeScorer, url: str) -> None:
    start = time.monotonic()
    judgements = await judged(scorer_of, url, *["slow"] * 16)
    took = time.monotonic() - start

    assert [judgement.reward for judgement in judgements] == [0.75] * 16
    assert took < 16 * 0.5


async def test_nobody_there_is_an_error_with_the_address(scorer_of: MakeScorer) -> None:
    (judgement,) = await judged(scorer_of, "http://127.0.0.1:1/judge", "good")

    assert judgement.status == "error"
    assert "ServiceError: http://127.0.0.1:1/judge failed: All connection attempts failed" in judgement.note


async def test_a_token_comes_from_the_environment(
    scorer_of: MakeScorer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    (judgement,) = await judged(scorer_of, url, "good", token_from="JUDGE_TOKEN")
    assert (judgement.reward, Service.tokens) == (0.75, ["Bearer s3cret"])

    monkeypatch.delenv("JUDGE_TOKEN")
    with pytest.raises(RecipeError, match=r"the environment variable JUDGE_TOKEN \(options\.token_from\)"):
        await judged(scorer_of, url, "good", token_from="JUDGE_TOKEN")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/x", "http:///judge"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(
        RecipeError, match=r"rewards\.judge\.options: url must begin with http:// or https://"
    ):
        build_rewards({"judge": Reward(kind="remote", options={"url": url})})


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"rewards\.judge\.options: url must have no user and password"):
        build_rewards({"judge": Reward(kind="remote", options={"url": "https://me:hunter2@host/judge"})})
