"""The first page draws: by itself, by mouse, by keyboard, from a link; as JAX does."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minivim
from minivim.errors import UserError
from minivim.prior import filter_logits, guide
from minivim_lab import widgets
from tests.browser.conftest import HERE
from tests.browser.test_pages import NARROW, findings

LIMIT = 6_000_000  # bytes of the page with everything that it loads
STATE = "#class=heart&t=0.8&k=64&g=2&seed=5&set=20.51"
HOW = {"temperature": 0.8, "top_k": 64, "guidance": 2.0}

DRAW = """async ({ label, temperature, topK, guidance, noise }) => {
  const prior = await minivim.Prior.load(minivim.priorWeights);
  const draw = () => new minivim.Draw(prior, {
    label, temperature, topK, guidance, noise: Float32Array.from(noise) });
  draw().finish(); // compiled
  const mine = draw(), began = performance.now();
  mine.finish();
  const took = performance.now() - began;
  return { took, codes: [...mine.codes], logits: mine.seen.map((s) => [...s.logits]) };
}"""


class Generator:
    """What a reader sees of it."""

    def __init__(self, page):
        self.page = page
        self.box = page.locator(".minivim-generator")
        self.cells = self.box.get_by_role("gridcell")
        self.bars = self.box.locator(".bars button:not(.rest)")

    def codes(self) -> list[str]:
        return self.cells.all_inner_texts()

    def finish(self) -> str:
        """The sentence of a finished picture."""
        words = "(told) => told.innerText.startsWith('A ')"
        told = self.box.locator("[role=status]")
        self.page.wait_for_function(words, arg=told.element_handle())
        return told.inner_text()

    def quick(self):
        """No waiting between codes."""
        self.box.get_by_label("pace").select_option("at once")

    def pixels(self) -> list[int]:
        return self.box.locator(".panel canvas").evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )

    def chosen(self) -> list[int]:
        return self.cells.evaluate_all(
            "all => all.flatMap((c, i) => c.ariaSelected === 'true' ? [i] : [])"
        )


@pytest.fixture
def opened(visit):
    """The first page with a picture finished; fails at the end on any fault."""
    with visit(f"index.html{STATE}") as watch:
        generator = Generator(watch.page)
        generator.finish()
        yield generator
        assert watch.faults == []


def expected(label: str, *, seed: int, prefix=(), **how) -> list[str]:
    prior = minivim.load("shapes/prior")
    key = jax.random.key(seed)
    given = np.array([prefix], np.int32) if len(prefix) else None
    codes = minivim.sample(prior, key=key, labels=[label], prefix=given, **how)
    return [str(code) for code in np.asarray(codes)[0]]


@pytest.mark.parametrize(
    ("label", "temperature", "top_k", "guidance"),
    [(0, 1.0, 256, 1), (3, 0.7, 20, 1), (6, 1.0, 256, 2.5), (7, 1.5, 8, 0.5)],
)
def test_codes_are_those_of_jax(opened, label, temperature, top_k, guidance):
    prior = minivim.load("shapes/prior")
    noise = np.random.default_rng(label).gumbel(size=(64, 256)).astype(np.float32)
    asked = {"label": label, "temperature": temperature, "guidance": guidance}
    asked |= {"topK": top_k, "noise": noise.ravel().tolist()}
    found = opened.page.evaluate(DRAW, asked)
    print(f"{found['took']:.0f} ms for 64 codes, guidance {guidance}")
    codes = jnp.array([found["codes"]])
    logits = prior(codes, jnp.array([label]))[0][0]
    if guidance != 1:
        null = prior(codes, jnp.array([prior.null_class]))[0][0]
        logits = guide(conditional=logits, null=null, scale=guidance)
    assert np.abs(np.asarray(logits) - np.array(found["logits"])).max() < 1e-3
    filtered = filter_logits(logits, temperature=temperature, top_k=top_k)
    assert np.array_equal(np.argmax(np.asarray(filtered) + noise, -1), codes[0])


def test_it_starts_by_itself_and_leaves_the_address_alone(visit):
    with visit("index.html") as watch:
        generator = Generator(watch.page)
        watch.page.wait_for_function(
            "document.querySelectorAll('.tokens [aria-disabled=false]').length > 9"
        )
        button = generator.box.get_by_role("button", name="Pause")
        assert button.is_visible()
        generator.quick()
        assert "in 64 codes" in generator.finish()
        assert generator.codes() == expected("star", seed=8)
        assert "#" not in watch.page.url
        assert watch.faults == []


def test_without_motion_the_picture_is_there_at_once(chromium, site):
    context = chromium.new_context(reduced_motion="reduce")
    context.route(lambda url: not HERE.match(url), lambda route: route.abort())
    page = context.new_page()
    page.goto(f"{site.as_uri()}/index.html")
    generator = Generator(page)
    generator.box.locator(".tokens").wait_for()
    counts = page.evaluate(
        """async () => {
          const seen = new Set();
          for (let i = 0; i < 20; i++) {
            seen.add(document.querySelectorAll('.tokens [aria-disabled=false]').length);
            await new Promise(requestAnimationFrame);
          }
          return [...seen];
        }"""
    )
    assert counts == [64]
    context.close()


def test_class_temperature_and_seed(opened):
    opened.quick()
    box = opened.box
    before = opened.pixels()
    box.get_by_role("radio", name="ring").click()
    opened.page.wait_for_function("location.hash.includes('ring')")
    assert opened.codes() == expected("ring", seed=5, **HOW)
    assert opened.pixels() != before
    box.get_by_label("temperature").fill("1.4")
    box.get_by_label("guidance").fill("1")
    box.get_by_label("top-k").fill("18")
    box.get_by_label("seed", exact=True).fill("11")
    box.get_by_role("button", name="Generate").click()
    opened.page.wait_for_function("location.hash.includes('seed=11')")
    assert opened.codes() == expected("ring", seed=11, temperature=1.4)
    # Once more without a change: another seed.
    box.get_by_role("button", name="Generate").click()
    opened.page.wait_for_function("location.hash.includes('seed=12')")
    assert opened.codes() == expected("ring", seed=12, temperature=1.4)


def test_a_click_changes_a_token_and_the_prior_goes_on(opened):
    opened.quick()
    before, pixels = opened.codes(), opened.pixels()
    opened.cells.nth(27).click()
    assert opened.chosen() == [27]
    words = opened.box.locator("[role=status]").inner_text()
    assert f"The code at row 4, column 4 is {before[27]}" in words
    names = opened.bars.evaluate_all("all => all.map(b => b.textContent)")
    assert sum("written" in name for name in names) == 1
    other = opened.bars.locator(":scope:not(.taken)").first
    code = other.get_attribute("data-code")
    other.click()
    opened.page.wait_for_function("location.hash.includes('set=20.51_27.')")
    after = opened.codes()
    prefix = list(map(int, before[:27])) + [int(code)]
    assert after == expected("heart", seed=5, prefix=prefix, **HOW)
    assert after[:27] == before[:27] and after[27] == code
    assert opened.pixels() != pixels
    python = opened.box.locator("pre").text_content()
    assert f"prefix=[[{', '.join(map(str, prefix))}]]" in python


def test_the_keyboard_does_the_same(opened):
    opened.quick()
    before, press = opened.codes(), opened.page.keyboard.press
    opened.cells.first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "End", "Enter"):
        press(key)
    assert opened.chosen() == [23]
    for key in ("Home", "ArrowRight", "ArrowUp", " "):
        press(key)
    assert opened.chosen() == [9]
    tabs = opened.cells.evaluate_all("all => all.filter(c => c.tabIndex === 0).length")
    assert tabs == 1
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert opened.page.evaluate(style) == "solid"
    opened.bars.first.focus()
    press("ArrowRight")
    code = opened.page.evaluate("document.activeElement.dataset.code")
    press("Enter")
    opened.page.wait_for_function(f"location.hash.includes('set=9.{code}')")
    assert opened.codes()[9] == code and opened.codes()[:9] == before[:9]


def test_a_pause_a_step_and_a_code_of_ones_own(opened):
    box = opened.box
    box.get_by_role("radio", name="cross").click()
    box.get_by_role("button", name="Pause").click()
    count = opened.page.evaluate("Number(new URLSearchParams(location.hash).get('at'))")
    box.get_by_role("button", name="One code").click()
    there = "document.querySelectorAll('.tokens [aria-disabled=false]').length"
    assert opened.page.evaluate(there) == count + 1
    code = opened.bars.nth(2).get_attribute("data-code")
    opened.quick()
    opened.bars.nth(2).click()
    opened.finish()
    assert opened.codes()[count + 1] == code


def test_attention_can_be_chosen(opened):
    thick = "all => all.map(i => i.style.getPropertyValue('--thick'))"
    opened.cells.nth(40).click()
    discs = opened.cells.locator("i")
    seen = []
    for choice in ("mean", "0", "3", "off"):
        opened.box.get_by_label("attention").select_option(choice)
        seen.append(discs.evaluate_all(thick))
    assert len(set(map(tuple, seen))) == 4
    assert set(seen[-1]) == {"0"} and set(seen[0][40:]) == {"0"}


def test_a_link_brings_the_picture_back(opened, visit):
    opened.cells.nth(30).click()
    codes, pixels, address = opened.codes(), opened.pixels(), opened.page.url
    assert codes[20] == "51"
    link = opened.box.get_by_role("link", name="Link to this picture")
    assert address.endswith(link.get_attribute("href"))
    with visit(f"index.html#{address.partition('#')[2]}") as watch:
        other = Generator(watch.page)
        other.finish()
        assert other.codes() == codes and other.pixels() == pixels
        assert other.chosen() == [30]
        watch.page.evaluate("location.hash = 'class=star&seed=3&at=12'")
        watch.page.wait_for_function(
            "document.querySelectorAll('.tokens [aria-disabled=false]').length === 12"
        )
        assert other.codes()[:12] == expected("star", seed=3)[:12]
        assert watch.faults == []


def test_nonsense_in_a_link_does_no_harm(visit):
    for words in (
        "class=dog&seed=1",
        "class=star&t=x&k=0&seed=-4&set=99.1_x&token=700",
    ):
        with visit(f"index.html#{words}") as watch:
            Generator(watch.page).box.locator(".tokens").wait_for()
            assert watch.faults == []


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_it_is_accessible_while_drawing_and_after(visit, mode):
    with visit("index.html", mode=mode) as watch:
        generator = Generator(watch.page)
        generator.box.locator(".tokens").wait_for()
        generator.box.get_by_label("pace").select_option("slow")
        assert findings(watch.page, mode) == []
        generator.quick()
        generator.finish()
        watch.page.locator("details").evaluate_all("all => all.map(d => d.open = true)")
        assert findings(watch.page, mode) == []


def test_it_fits_a_telephone(visit):
    with visit(f"index.html{STATE}", width=NARROW) as watch:
        generator = Generator(watch.page)
        generator.finish()
        generator.box.locator("summary").click()
        assert watch.page.evaluate("document.documentElement.scrollWidth") <= NARROW
        rights = generator.box.locator("*").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().right)"
        )
        assert max(rights) <= NARROW
        assert generator.cells.first.bounding_box()["width"] >= 24


def test_the_page_is_small_and_asks_for_nothing(visit, served):
    with visit("search.html", base=served) as watch:
        sizes = {}
        watch.page.on("response", lambda r: sizes.update({r.url: len(r.body())}))
        watch.page.goto(f"{served}/index.html")
        Generator(watch.page).finish()
        watch.page.wait_for_load_state("networkidle")
        total = sum(sizes.values())
        print(f"{total:,} bytes in {len(sizes)} files")
        assert any("shapes-prior.js" in url for url in sizes)
        assert all(url.startswith(served) for url in sizes) and total <= LIMIT
        assert watch.faults == []


def test_without_weights_a_picture_and_a_line_stand_there(chromium, site):
    page = chromium.new_page()
    page.route("**/shapes-prior.js*", lambda route: route.abort())
    page.goto(f"{site.as_uri()}/index.html")
    words = page.locator(".minivim-generator [role=alert]").inner_text(timeout=60_000)
    assert words == "No generator here: shapes-prior.js is missing beside this script."
    loaded = "document.querySelector('.minivim-generator img').naturalWidth > 0"
    page.wait_for_function(loaded)
    page.close()


def test_a_cell_of_a_notebook_shows_the_same(chromium, tmp_path):
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html>{widgets.generator().data}", "utf-8")
    page, faults = chromium.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(cell.as_uri())
    page.on("request", lambda request: faults.append(request.url))
    frame = page.frame_locator("iframe")
    frame.get_by_label("pace").select_option("at once")
    frame.get_by_role("radio", name="crescent").click()
    frame.locator("[role=status]", has_text="A crescent in 64 codes").wait_for()
    codes = frame.get_by_role("gridcell").all_inner_texts()
    assert codes == expected("crescent", seed=8)
    assert faults == []
    page.close()


def test_a_cell_without_the_book_says_so(monkeypatch, tmp_path):
    module = importlib.import_module("minivim_lab.widgets.generator")
    monkeypatch.setattr(module, "BOOK", tmp_path)
    with pytest.raises(UserError, match="use a checkout"):
        widgets.generator()
