"""Trainings of panoramas at tiny sizes: losses fall, runs go on, models come back as written."""

import json

import numpy as np
import pytest
import torch

from backend import weights
from backend.depth_meanings import radii
from backend.errors import BadInput
from backend.models.ldm3d import images, loading
from backend.training import loops
from backend.training.ldm3d import (
    autoencoder,
    card,
    diffusion,
    evaluate,
    export,
    latents,
    networks,
    pictures,
    vocabulary,
)
from backend.training.loops import Plan, Team
from backend.training.rooms.dataset import Rooms, inverse_levels, metres
from backend.training.rooms.furnishings import Model

ALONE = Team(torch.device("cpu"))
CAPTIONS = ["360 view of a bedroom with a double bed", "360 view of an office with two desks"]
COUNT, HEIGHT = 4, 64
DIFFUSION = diffusion.Recipe(batch=3)
CODER = autoencoder.Recipe("tiny", batch=2, columns=64)


@pytest.fixture(scope="module")
def rooms():
    """Smooth pictures with walls that come nearer and go away."""
    rng = np.random.default_rng(1)
    across = np.linspace(0, 2 * np.pi, 2 * HEIGHT, endpoint=False)
    down = np.linspace(0, 1, HEIGHT)[:, None]
    rgb, near = [], []
    for number in range(COUNT):
        waves = [np.sin(across * (1 + c) + number) * down for c in range(3)]
        rgb.append(np.uint8(127 + 100 * np.stack(waves, axis=-1)))
        distance = 2.5 + np.sin(across + number) + 0 * down
        distance[:8, 20:40] = np.inf
        near.append(inverse_levels(distance + rng.uniform(0, 0.01, distance.shape)))
    return Rooms(CAPTIONS * (COUNT // 2), [np.stack(rgb)], [np.stack(near)])


def silent(line):
    pass


# ----------------------------------------------------------------------------------------- words


def test_words_of_captions_are_read_as_clip_reads_them():
    from backend.models.mvdream.tokenizer import _tokenizer

    made, clip = vocabulary.tokenizer(CAPTIONS), _tokenizer()
    for text in CAPTIONS:
        ours = made.convert_ids_to_tokens(made(text)["input_ids"])
        assert ours == clip.convert_ids_to_tokens(clip(text)["input_ids"])
    assert len(made) < 700
    assert made("bedroom")["input_ids"][1:-1] == [made.get_vocab()["bedroom</w>"]]


def test_other_words_and_letters_can_be_read():
    made = vocabulary.tokenizer(CAPTIONS)
    numbers = made("zebra, Über 冰")["input_ids"]
    assert max(numbers) < len(made)
    assert made.decode(numbers[1:-1]).replace(" ", "") == "zebra,über冰"


# -------------------------------------------------------------------------------------- pictures


def test_depth_comes_back_as_metres(rooms):
    levels = rooms.levels(0)
    back = radii(pictures.depth_of(levels), pictures.MEANING)
    truth = metres(levels)
    finite = np.isfinite(truth)
    assert np.abs(back - truth)[finite].max() < 1e-3
    assert back[~finite] == pytest.approx(pictures.MEANING.far, rel=1e-5)


def test_six_channels_hold_the_depth_three_times(rooms):
    whole = pictures.panorama(rooms, 1, 6, "repeated").numpy()
    picture, depth = images.split(whole, "repeated")
    assert np.abs(picture * 255 - rooms.rgb(1)).max() < 1e-3
    assert np.abs(depth - pictures.depth_of(rooms.levels(1))).max() < 1e-6
    larger = pictures.panorama(rooms, 1, 4, "bytes", 2 * HEIGHT)
    assert larger.shape == (4, 2 * HEIGHT, 4 * HEIGHT)


def test_rooms_kept_on_a_card_are_those_of_the_files(rooms):
    kept = pictures.source(rooms, "repeated", ALONE.device, resident=True)
    read = pictures.source(rooms, "repeated", ALONE.device, resident=False)
    for number in range(COUNT):
        off = (kept(number) - read(number)).abs()
        assert off[:3].max() < 1e-6
        assert off[3:].max() < 1e-3  # depth is in half precision there


# ----------------------------------------------------------------------------------- autoencoder


@pytest.mark.parametrize("critic", [0.0, 0.1])
def test_steps_on_one_batch_lower_the_loss_of_the_coder(rooms, tmp_path, critic):
    recipe = autoencoder.Recipe("tiny", batch=2, columns=64, critic=critic, critic_from=0.0)
    run = autoencoder.begin(recipe, Plan(steps=30, rate=3e-3), ALONE, tmp_path / "a.pt")
    read = pictures.source(rooms, "repeated", ALONE.device, resident=False)
    autoencoder.set_code(run, rooms, recipe, 0)
    batch = autoencoder.draw(read, len(rooms), recipe, np.random.default_rng(0))
    assert batch.shape == (2, 6, HEIGHT, 64)

    def work(run):
        return autoencoder.step(run, recipe, batch, np.random.default_rng(run.step))

    first = float(work(run)["loss"])
    loops.train(run, work, ALONE, silent)
    assert float(work(run)["loss"]) < 0.9 * first


def test_the_critic_learns_from_its_own_loss_only(rooms, tmp_path):
    """What the coder wants of the critic must not reach the critic's weights."""
    recipe = autoencoder.Recipe("tiny", batch=1, critic=1.0, critic_from=0.0)
    run = autoencoder.begin(recipe, Plan(steps=1), ALONE, tmp_path / "a.pt")
    critic = run.module["critic"]
    picture = torch.rand(1, 6, 16, 16, requires_grad=True)
    autoencoder._opinion(critic, picture).backward()
    assert picture.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_a_coder_in_pieces_is_the_same(rooms, tmp_path):
    plan = Plan(steps=4, warm_up=2)
    whole = autoencoder.fit(rooms, CODER, plan, ALONE, silent, tmp_path / "whole")
    stops = Plan(steps=4, warm_up=2, minutes=1e-9)
    for _ in range(4):
        part = autoencoder.fit(rooms, CODER, stops, ALONE, silent, tmp_path / "part")
    assert part.step == whole.step == 4
    a, b = (loops.read_checkpoint(run.path) for run in (whole, part))
    for kind in ("module", "average"):
        assert all(torch.equal(a[kind][name], b[kind][name]) for name in a[kind])
    assert a["extra"]["scale"] == b["extra"]["scale"]


def test_turning_the_room_turns_what_comes_back(rooms):
    torch.manual_seed(0)
    coder = networks.autoencoder(networks.AUTOENCODERS["tiny"]).eval()
    whole = pictures.panorama(rooms, 0, 6, "repeated")[None]
    with torch.no_grad():
        plain = coder.decode(coder.encode(whole).latent_dist.mean).sample
        turned = coder.decode(coder.encode(whole.roll(24, -1)).latent_dist.mean).sample
    assert (turned - plain.roll(24, -1)).abs().max() < 1e-4


def test_an_unfinished_coder_is_refused(rooms, tmp_path):
    plan = Plan(steps=4, minutes=1e-9)
    run = autoencoder.fit(rooms, CODER, plan, ALONE, silent, tmp_path)
    with pytest.raises(BadInput, match="not finished"):
        autoencoder.trained(run.path)


# ------------------------------------------------------------------------------------- diffusion


@pytest.fixture(scope="module")
def trained(rooms, tmp_path_factory):
    """A folder with both checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    autoencoder.fit(rooms, CODER, Plan(steps=3), ALONE, silent, folder)
    coder = autoencoder.trained(folder / autoencoder.CHECKPOINT)
    found = latents.encoded(
        coder, rooms, range(COUNT), folder / "latents.npy", ALONE.device, silent, mirrored=True
    )
    parts = diffusion.fresh("tiny", 4, rooms.captions)
    plan = Plan(steps=3)
    path = folder / diffusion.CHECKPOINT
    diffusion.fit(parts, found, rooms.captions, DIFFUSION, plan, ALONE, silent, path)
    return folder


def test_latents_have_the_scale_one_and_are_kept(rooms, trained):
    coder = autoencoder.trained(trained / autoencoder.CHECKPOINT)
    path = trained / "latents.npy"
    before = path.stat().st_mtime_ns
    found = latents.encoded(coder, rooms, range(COUNT), path, ALONE.device, silent, mirrored=True)
    assert path.stat().st_mtime_ns == before
    assert found.shape == (2 * COUNT, 4, HEIGHT // 8, HEIGHT // 4)
    assert found[:COUNT].astype(np.float32).std() == pytest.approx(1, abs=0.05)
    assert not np.array_equal(found[0], found[COUNT])


def test_latents_that_stopped_go_on(rooms, trained, tmp_path):
    coder = autoencoder.trained(trained / autoencoder.CHECKPOINT)
    arguments = (coder, rooms, range(COUNT), tmp_path / "a.npy", ALONE.device, silent)
    whole = np.array(latents.encoded(*arguments))
    note = tmp_path / "a.json"
    record = json.loads(note.read_text())
    note.write_text(json.dumps({**record, "done": 2}))
    kept = np.load(tmp_path / "a.npy", mmap_mode="r+")
    kept[2:] = 0
    kept.flush()
    assert np.array_equal(latents.encoded(*arguments), whole)


def test_steps_on_one_batch_lower_the_loss_of_the_diffusion(rooms):
    torch.manual_seed(0)
    parts = diffusion.fresh("tiny", 4, rooms.captions)
    optimizer = torch.optim.Adam(parts.module.parameters(), 3e-3)
    levels = diffusion.alphas(parts.schedule)
    starts = torch.randn(4, 4, 8, 16)
    words = diffusion._numbers(parts.tokenizer, CAPTIONS * 2)[:4]
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        found = diffusion.step(parts, levels, starts, words, np.random.default_rng(0))
        losses.append(float(found["loss"]))
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_true_noise_or_v_has_no_loss(kind):
    """Told by DDIM itself: one step to the end from what is predicted gives the latents back."""
    import diffusers

    schedule = {**networks.SCHEDULE, "prediction_type": kind}
    scheduler = diffusers.DDIMScheduler.from_config(schedule)
    scheduler.set_timesteps(1)
    starts = torch.randn(2, 4, 8, 16)
    losses = []

    class Knowing(torch.nn.Module):
        def forward(self, noised, times, context, return_dict):
            level = diffusion.alphas(schedule)[times][:, None, None, None]
            noise = (noised - level.sqrt() * starts) / (1 - level).sqrt()
            v = level.sqrt() * noise - (1 - level).sqrt() * starts
            told = noise if kind == "epsilon" else v
            for number, time in enumerate(times):
                scheduler.timesteps[0] = time
                if level[number] > 1e-4:  # before, x_0 cannot be told from the noise
                    found = scheduler.step(told[number], time, noised[number]).pred_original_sample
                    losses.append(float((found - starts[number]).abs().max()))
            return (told.requires_grad_(),)

    parts = diffusion.fresh("tiny", 4, CAPTIONS)
    parts.module["unet"], parts.schedule = Knowing(), schedule
    words = diffusion._numbers(parts.tokenizer, CAPTIONS)[:2]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        loss = diffusion.step(parts, diffusion.alphas(schedule), starts, words, rng)["loss"]
        assert float(loss) < 1e-6
    assert len(losses) > 5
    assert max(losses) < 1e-2


def test_only_times_that_are_used_are_trained(rooms, trained, tmp_path):
    parts = diffusion.fresh("tiny", 4, rooms.captions)
    seen = []
    parts.module["unet"].register_forward_pre_hook(lambda _, given: seen.extend(given[1].tolist()))
    found = np.load(trained / "latents.npy")
    recipe = diffusion.Recipe(batch=16, until=0.25)
    path = tmp_path / "a.pt"
    diffusion.fit(parts, found, rooms.captions, recipe, Plan(steps=4), ALONE, silent, path)
    assert len(seen) == 64
    assert 200 < max(seen) < 250


def test_words_reach_the_prediction_and_are_learned(rooms):
    """The text encoder gets gradients, and two captions give two predictions."""
    parts = diffusion.fresh("tiny", 4, rooms.captions)
    levels = diffusion.alphas(parts.schedule)
    words = diffusion._numbers(parts.tokenizer, CAPTIONS)
    starts = torch.randn(2, 4, 8, 16)
    diffusion.step(parts, levels, starts, words[:2], np.random.default_rng(0))
    learned = [p.grad for p in parts.text_encoder.parameters() if p.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in learned) > 0
    with torch.no_grad():
        contexts = parts.text_encoder(input_ids=words).last_hidden_state
        noised = starts[:1].expand(2, -1, -1, -1)
        found = parts.module["unet"](noised, 500, contexts[:2], return_dict=False)[0]
    assert (found[0] - found[1]).abs().max() > 1e-6


def test_a_diffusion_in_pieces_is_the_same(rooms, trained, tmp_path):
    found = np.load(trained / "latents.npy")

    def fit(plan, name):
        torch.manual_seed(5)
        parts = diffusion.fresh("tiny", 4, rooms.captions)
        path = tmp_path / name
        return diffusion.fit(parts, found, rooms.captions, DIFFUSION, plan, ALONE, silent, path)

    whole = fit(Plan(steps=4, warm_up=2), "whole.pt")
    for _ in range(4):
        part = fit(Plan(steps=4, warm_up=2, minutes=1e-9), "part.pt")
    a, b = (loops.read_checkpoint(run.path) for run in (whole, part))
    assert part.step == 4
    assert all(torch.equal(a["average"][name], b["average"][name]) for name in a["average"])


# ---------------------------------------------------------------------------------------- models


@pytest.fixture
def installed(rooms, trained, tmp_path):
    return export.export(
        trained,
        "tiny",
        rooms.captions,
        tmp_path / "tiny-rooms",
        title="Tiny rooms",
        height=HEIGHT,
        half=False,
    )


def test_a_model_comes_back_as_it_was_trained(rooms, trained, installed):
    model = loading.load(installed, ALONE.device, torch.float32)
    coder, parts = export.trained(trained, "tiny", rooms.captions)
    assert model.config.depth_layout == "repeated"
    assert model.config.meaning == pictures.MEANING
    assert (model.config.width, model.config.height) == (2 * HEIGHT, HEIGHT)
    for own, other in (
        (model.vae, coder),
        (model.unet, parts.module["unet"]),
        (model.text_encoder, parts.text_encoder),
    ):
        have, want = own.state_dict(), other.state_dict()
        assert all(torch.equal(have[name], want[name]) for name in want if name in have)
    latent = torch.randn(1, 4, HEIGHT // 8, HEIGHT // 4)
    picture, depth = model.decode(latent)
    with torch.no_grad():
        decoded = coder.decode(latent / coder.config.scaling_factor).sample[0].numpy()
    wanted = images.split(decoded, "repeated")
    assert np.abs(picture - wanted[0]).max() < 1e-5
    assert np.abs(depth - wanted[1]).max() < 1e-5
    numbers = diffusion._numbers(parts.tokenizer, CAPTIONS[:1])[:1]
    assert torch.equal(model.read(CAPTIONS[0]).numbers, numbers)


def test_a_model_makes_rooms_and_its_card(rooms, installed, tmp_path, monkeypatch):
    model = loading.load(installed, ALONE.device, torch.float32)
    rows = evaluate.samples(model, CAPTIONS, 2, 2.0, 0, silent)
    assert rows[0][1].shape == (HEIGHT, 2 * HEIGHT, 3)
    assert not np.array_equal(rows[0][1], rows[1][1])
    evaluate.sheet(rows, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    measured = evaluate.of_autoencoder(model.vae, rooms, ALONE.device, 2)
    assert measured["rooms"] == 2
    assert 3 < measured["psnr"] < 60
    bed = Model("a#bed", "double bed", "train", "Bed (a#bed), Ann, CC-BY-3.0", (1, 2, 1), 0.0, 0.5)
    text = card.card(installed, [bed], measured, "One processor.")
    assert "panorama-autoencoder: 3 steps of 2" in text
    assert "1 under CC-BY-3.0" in text
    assert "Bed (a#bed), Ann" in card.attribution([bed])
    with pytest.raises(BadInput, match="secret"):
        card.attribution([Model("b", "b", "train", "B, Bob, secret", (1, 1, 1), 0.0, 0.0)])


def test_half_precision_is_what_is_shipped(rooms, trained, tmp_path):
    small = export.export(
        trained, "tiny", rooms.captions, tmp_path / "half", title="Half", height=HEIGHT
    )
    model = loading.load(small, ALONE.device, torch.float32)
    coder, _ = export.trained(trained, "tiny", rooms.captions)
    want = coder.state_dict()
    off = [(v - want[k]).abs().max() for k, v in model.vae.state_dict().items()]
    assert 0 < max(off) < 2e-3
    assert small.stands_in_for == ("text-to-panorama",)
    weights.verify(small)


def test_an_installed_model_is_fine_tuned_with_its_autoencoder_as_it_is(rooms, installed, tmp_path):
    model = loading.load(installed, ALONE.device, torch.float32)
    before = {name: value.clone() for name, value in model.vae.state_dict().items()}
    spoken = {name: value.clone() for name, value in model.text_encoder.state_dict().items()}
    schedule = dict(networks.SCHEDULE)
    found = latents.encoded(
        model.vae, rooms, range(COUNT), tmp_path / "a.npy", ALONE.device, silent,
        layout=model.config.depth_layout, height=model.config.height,
    )  # fmt: skip
    parts = diffusion.published(model, schedule, "tiny-rooms")
    start = {name: value.clone() for name, value in parts.module.state_dict().items()}
    plan = Plan(steps=2, rate=1e-5)
    path = tmp_path / diffusion.FINE_TUNED
    run = diffusion.fit(parts, found, rooms.captions, DIFFUSION, plan, ALONE, silent, path)
    assert set(parts.module.keys()) == {"unet"}
    moved = [(run.module.state_dict()[name] - start[name]).abs().max() for name in start]
    assert 0 < max(moved) < 1e-4
    assert all(torch.equal(model.vae.state_dict()[name], before[name]) for name in before)
    assert all(torch.equal(model.text_encoder.state_dict()[n], spoken[n]) for n in spoken)
    with pytest.raises(BadInput, match="noise"):
        diffusion.published(model, {"prediction_type": "sample"}, "other")


def test_checkpoints_of_another_size_are_refused(rooms, trained):
    with pytest.raises(BadInput, match="other networks"):
        export.trained(trained, "cpu", rooms.captions)


# -------------------------------------------------------------------------------------- measures


def test_measures_know_what_is_right(rooms):
    picture = rooms.rgb(0) / np.float32(255)
    assert evaluate.psnr(picture, picture) > 100
    assert evaluate.psnr(picture + 0.1, picture) == pytest.approx(20, abs=1e-3)
    truth = metres(rooms.levels(0))
    depth = pictures.depth_of(rooms.levels(0))
    exact = evaluate.of_depth(depth, truth, pictures.MEANING)
    assert exact["absrel"] < 1e-3
    further = evaluate.of_depth(
        pictures.depth_of(inverse_levels(1.1 * truth)), truth, pictures.MEANING
    )
    assert further["absrel"] == pytest.approx(0.1, abs=2e-3)


def test_a_pole_is_one_place():
    picture = np.full((16, 32, 3), 0.5, np.float32)
    assert evaluate.pole(picture) == 0
    picture[0, ::2], picture[0, 1::2] = 0.6, 0.4
    assert evaluate.pole(picture) == pytest.approx(0.05)


def test_a_seam_is_seen():
    columns = np.cos(np.linspace(0, 2 * np.pi, 64, endpoint=False))
    whole = np.repeat(np.repeat(columns[None, :, None], 32, 0), 3, 2)
    cut = np.repeat(np.repeat(np.linspace(0, 1, 64)[None, :, None], 32, 0), 3, 2)
    assert evaluate.seam(whole) < 2
    assert evaluate.seam(cut) > 50
