"""The page in headless Chromium, with real clicks and keys."""

import json
import re
import time

import pytest
from playwright import sync_api

from tests.serve.browser import launch


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        made = launch(playwright)
        yield made
        made.close()


@pytest.fixture
def page(browser, server):
    """The page of a server, in a fresh context; errors of its script and its policy fail the test."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        made = context.new_page()
        made.set_default_timeout(20_000)
        wrong = made.wrong = []
        made.on("pageerror", lambda error: wrong.append(str(error)))
        made.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        made.goto(server.url)
        sync_api.expect(made.locator("#model")).to_have_text("tiny")
        yield made
        assert not wrong


def start(page, *, n, most=16):
    page.get_by_label("Samples").first.fill(str(n))
    page.get_by_label("Most tokens").fill(str(most))
    page.get_by_role("button", name="Sample", exact=True).click()


def finished(page, n):
    sync_api.expect(page.locator(".card:not(.open)")).to_have_count(n)
    sync_api.expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_samples_come_as_cards_grouped_by_plan_beside_their_chart(page):
    start(page, n=8)
    finished(page, 8)
    assert page.locator("#count").inner_text() == "8 samples"
    groups = page.locator("article.group")
    assert 1 <= groups.count() <= 8
    assert sum(group.locator(".card").count() for group in groups.all()) == 8
    assert re.fullmatch(r"Entropy of the set: \d+\.\d\d bits a key.*", page.locator("#entropy").inner_text())
    told = page.locator("#chart [role=group]")
    assert told.count() >= 1
    for one in told.all():
        assert one.get_attribute("aria-label").startswith("Values of ")


def test_one_click_fixes_a_tag_and_samples_again_and_one_more_lets_it_go(page):
    start(page, n=6)
    finished(page, 6)
    tag = page.locator("article.group .tag").first
    key, _, value = tag.inner_text().partition(": ")
    with page.expect_request("**/v1/chat/completions") as sent:
        tag.click()
    assert json.loads(sent.value.post_data)["anchortrain"]["fixed"] == [[key, value]]
    finished(page, 6)
    for group in page.locator("article.group").all():
        assert f"{key}: {value}" in [one.inner_text() for one in group.locator(".tag").all()]
    shown = page.locator("#chart [role=group]", has=page.get_by_role("heading", name=key, exact=True))
    assert "fixed, not drawn" in shown.inner_text() and "bits" not in shown.inner_text()
    assert re.search("without fixed keys|all keys of these plans are fixed", page.locator("#entropy").inner_text())
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    both = page.get_by_role("button", name=f"Fix {key}: {value}")
    assert {one.get_attribute("aria-pressed") for one in both.all()} == {"true"} and both.count() >= 2
    shown.get_by_role("button").first.press("Enter")
    assert {one.get_attribute("aria-pressed") for one in both.all()} == {"false"}
    assert page.locator("#fixed li").count() == 0 and not asked


def fix(page, value):
    page.locator("#value").fill(value)
    page.get_by_role("button", name="Fix this tag").click()


@pytest.mark.parametrize("value", ["a; b", "fox " * 40 + "fox"])
def test_a_tag_that_is_refused_is_fixed_no_more(page, value):
    fix(page, "fox")
    start(page, n=2)
    finished(page, 2)
    fix(page, value)
    page.get_by_role("button", name="Sample", exact=True).click()
    alert = page.get_by_role("alert")
    sync_api.expect(alert).to_contain_text(f"No longer fixed: hero: {value}. ")
    assert page.locator("#fixed").inner_text().split(" ✕")[0] == "hero: fox" and page.locator("#fixed li").count() == 1
    field = page.locator("#value")  # for mending
    sync_api.expect(field).to_be_focused()
    assert field.input_value() == value and field.get_attribute("aria-invalid") == "true"
    assert "400" in page.wrong.pop()
    page.keyboard.type("!")
    assert field.get_attribute("aria-invalid") is None and alert.inner_text()
    page.get_by_role("button", name="Sample", exact=True).click()
    finished(page, 2)
    sync_api.expect(page.locator("#error")).to_be_empty()


def test_a_model_without_annotations_has_nothing_of_plans(browser, make_server):
    with make_server(keys=()) as server, browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(server.url)
        sync_api.expect(page.locator("#model")).to_have_text("tiny")
        with page.expect_request("**/v1/chat/completions") as sent:
            start(page, n=3)
        assert json.loads(sent.value.post_data)["anchortrain"] == {}
        finished(page, 3)
        assert not re.search("plan|tag|entropy|key", page.locator("body").inner_text(), re.IGNORECASE)
        assert page.get_by_role("spinbutton", name="Temperature", exact=True).is_visible()


def test_the_keyboard_is_enough(page):
    page.locator("#prompt").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("A fox?")
    for field in ("n", "most", "plan-temperature", "temperature"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == field
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.press("Tab")
    page.keyboard.type("fox")
    page.keyboard.press("Enter")
    assert page.locator("#fixed").inner_text().startswith("hero: fox")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Control+Enter")
    body = json.loads(sent.value.post_data)
    assert body["messages"] == [{"role": "user", "content": "A fox?"}]
    assert body["anchortrain"]["fixed"] == [["hero", "fox"]]
    finished(page, body["n"])
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tag = page.locator("article.group .tag").first
    tag.focus()
    if tag.get_attribute("aria-pressed") == "true":
        page.keyboard.press("Enter")  # lets it go, and stays
    with page.expect_request("**/v1/chat/completions"):
        page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "count"


def test_stop_ends_the_work(page, server):
    start(page, n=64, most=256)
    sync_api.expect(page.locator(".card").first).to_be_attached()
    page.get_by_role("button", name="Stop").click()
    sync_api.expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    until = time.monotonic() + 5
    while server.service.worker.outstanding and time.monotonic() < until:
        time.sleep(0.02)
    assert server.service.worker.outstanding == 0
    assert page.locator(".card.open").count() == 0
    assert page.locator("#error").inner_text() == ""


def test_what_a_model_writes_is_text(page):
    nasty = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    chunk = {
        "index": 0,
        "delta": {"content": nasty},
        "finish_reason": "stop",
        "anchortrain": {"annotation": [["hero", nasty]], "wellformed": True},
    }
    events = f"data: {json.dumps({'choices': [chunk]})}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
    start(page, n=1)
    finished(page, 1)
    assert page.locator(".card span").inner_text() == nasty
    assert page.locator("main img, main script").count() == 0
    assert page.locator("article.group .tag").inner_text() == f"hero: {nasty}"
    assert "owned" not in page.title()


def test_errors_are_told(page):
    # Far more than the server reads as a prompt.
    page.locator("#prompt").fill("word " * 2000)
    with page.expect_response("**/v1/chat/completions") as answered:
        page.evaluate("document.getElementById('ask').requestSubmit()")
    assert answered.value.status == 400
    sync_api.expect(page.get_by_role("alert")).to_contain_text("at most 128 are possible")
    assert "400" in page.wrong.pop()  # the browser tells of every such status


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, server, scheme):
    with browser.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(server.url)
        sync_api.expect(page.locator("#model")).to_have_text("tiny")
        start(page, n=4)
        finished(page, 4)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        text, back = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
        light = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (text, back)]
        assert (light[0] < light[1]) == (scheme == "light")


def test_a_key_is_asked_for_where_the_server_needs_one(browser, make_server):
    with make_server(api_key="a secret") as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(server.url)
        page.get_by_label("API key").fill("a secret")
        start(page, n=2)
        finished(page, 2)
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


def test_the_policy_permits_nothing_but_the_page_itself(page):
    with page.expect_event("console") as said:
        page.evaluate("document.body.append(Object.assign(document.createElement('img'), {src: '/x.png'}))")
    assert "Content Security Policy" in said.value.text
    page.wrong.clear()
