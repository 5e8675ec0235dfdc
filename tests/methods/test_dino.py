"""DINO against the official code's numbers, its words, and itself on two processes."""

import math
import pickle

import pytest
import torch
import torch.multiprocessing as mp
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.checkpoints import dino as official
from mimlab.data.multicrop import MultiCrop
from mimlab.errors import Refused
from mimlab.layers import decay_groups, schedule
from mimlab.methods import Batch, Progress
from mimlab.methods._dino_head import Head
from mimlab.methods.dino import DINO, outputs

VIT = {"dim": 24, "depth": 2, "heads": 3}
HEAD = {"out_dim": 30, "head_dim": 20, "bottleneck_dim": 8}


def vit(size=16, patch=4, **options):
    return encoders.create("vit", size, patch, **VIT | {"normalise": "none"} | options)


def small(seed=0, **options):
    torch.manual_seed(seed)
    return DINO(vit(), **HEAD | options)


def views(batch=3, seed=0):
    """Two global crops of 16 pixels and three local ones of 8."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(batch, 3, side, side, generator=generator) for side in (16, 16, 8, 8, 8))


def step(method, optimiser, crops, progress):
    """One step as the loop does it."""
    output = method(Batch(crops[0], crops=crops[1:]), None, progress)
    optimiser.zero_grad()
    output.loss.backward()
    method.before_step(progress)
    optimiser.step()
    method.after_step(Progress(progress.step + 1, progress.steps))
    return output


# -- the official numbers


def built(config):
    """The method of a dino_step case; lengths in epochs become shares of its epochs."""
    trunk, head, loss = config["backbone"], config["head"], config["loss"]
    encoder = vit(
        trunk["img_size"][0],
        trunk["patch_size"],
        dim=trunk["embed_dim"],
        depth=trunk["depth"],
        heads=trunk["num_heads"],
        drop_path=config["drop_path"],
    )
    return DINO(
        encoder,
        out_dim=head["out_dim"],
        head_layers=head["nlayers"],
        head_dim=head["hidden_dim"],
        bottleneck_dim=head["bottleneck_dim"],
        norm_last_layer=head["norm_last_layer"],
        freeze_last=config["freeze_last_layer_epochs"] / loss["nepochs"],
        warmup_teacher_temp=loss["warmup_teacher_temp"],
        teacher_temp=loss["teacher_temp"],
        warmup_teacher=loss["warmup_teacher_temp_epochs"] / loss["nepochs"],
        momentum=config["teacher_momentum"],
        clip=config["clip_grad"],
    )


@pytest.mark.parametrize("name", cases("dino_step"))
def test_two_steps_are_the_official_ones(name):
    state, arrays, about = load(name)
    config, arrays = about["config"], {key: torch.as_tensor(value) for key, value in arrays.items()}
    method = built(config)
    trunk, block = config["backbone"], method.encoder.trunk.blocks[0]
    assert block.mlp.fc1.out_features == trunk["mlp_ratio"] * trunk["embed_dim"]
    assert (block.attn.qkv.bias is not None) == trunk["qkv_bias"] and config["head"]["in_dim"] == method.encoder.dim
    wrapped = {"student": {"module." + n: v for n, v in state.items()}, "teacher": state}
    assert official.load_method(method, wrapped | {"dino_loss": {"center": torch.zeros_like(method.centre)}}) == (
        [],
        [],
    )

    own = dict(method.named_parameters())
    groups = decay_groups(method, config["weight_decay"])
    for group, names in zip(groups, (about["regularized"], about["not_regularized"]), strict=True):
        assert {id(p) for p in group["params"]} == {id(own[official.ours(n)]) for n in names}
    optimiser = torch.optim.SGD(groups, lr=config["lr"], momentum=0.9)

    for k, epoch in enumerate(config["epochs_of_the_two_steps"]):
        crops = [arrays[f"step{k}_crop{c}"] for c in range(config["loss"]["ncrops"])]
        progress = Progress(epoch, config["loss"]["nepochs"])
        output = method(Batch(crops[0], crops=tuple(crops[1:])), None, progress)
        assert_close(output.prediction.flatten(0, 1), arrays[f"student_out_{k}"], 1e-4, 1e-5, "student")
        taught = outputs(method.teacher["encoder"], method.teacher["head"], crops[:2])
        assert_close(taught.flatten(0, 1), arrays[f"teacher_out_{k}"], 1e-4, 1e-5, "teacher")
        assert_close(output.loss, arrays["losses"][k], 5e-5, 0, "loss")
        optimiser.zero_grad()
        output.loss.backward()
        for n, norm in about["grad_norm_before_clip"][k].items():
            gradient = own[official.ours(n)].grad
            assert (gradient is None) == (norm is None), n
            if norm is not None:
                assert_close(gradient.norm(), norm, 1e-3, 1e-6, n)
        method.before_step(progress)
        optimiser.step()
        method.after_step(Progress(1, 1))  # the case's momentum does not rise
        assert_close(method.centre, arrays["center"][k], 0, 1e-6, "centre")
        for side, prefix in (("student", ""), ("teacher", "teacher.")):
            for n, norm in about[f"{side}_norms"][k].items():
                assert_close(own[prefix + official.ours(n)].norm(), norm, 1e-4, 0, f"{side} {n}")


@pytest.mark.parametrize("name", cases("dino_loss"))
def test_loss_centre_and_gradient_are_the_official_ones(name):
    _, arrays, about = load(name)
    config, arrays = about["config"], {key: torch.as_tensor(value) for key, value in arrays.items()}
    epochs, crops = config["nepochs"], config["ncrops"]
    method = DINO(
        vit(),
        **HEAD | {"out_dim": config["out_dim"]},
        student_temp=config["student_temp"],
        warmup_teacher_temp=config["warmup_teacher_temp"],
        teacher_temp=config["teacher_temp"],
        warmup_teacher=config["warmup_teacher_temp_epochs"] / epochs,
        centre_momentum=config["center_momentum"],
    )
    found = [method.teacher_temperature(Progress(epoch, epochs)) for epoch in range(epochs)]
    assert_close(torch.tensor(found, dtype=torch.float64), arrays["teacher_temp_schedule"], 0, 1e-12)
    method.centre.copy_(arrays["center_before"][0])
    for k, epoch in enumerate(arrays["epoch"].tolist()):
        student = arrays["student_output"][k].clone().requires_grad_()
        teacher = arrays["teacher_output"][k].unflatten(0, (2, -1))
        assert_close(method.centre, arrays["center_before"][k], 0, 1e-6, "centre before")
        loss, _ = method.compare(student.unflatten(0, (crops, -1)), teacher, Progress(epoch, epochs))
        assert_close(loss, arrays["loss_f64"][k], 2e-5, 0, "loss")
        assert_close(torch.autograd.grad(loss, student)[0], arrays["grad_student"][k], 1e-4, 1e-7, "gradient")
        method.after_step(Progress(epoch + 1, epochs))
        assert_close(method.centre, arrays["center_after"][k], 0, 1e-6, "centre after")


@pytest.mark.parametrize("name", cases("dino_schedules"))
def test_schedules_are_the_official_ones(name):
    _, arrays, about = load(name)
    each, (lr, decay, temperature) = (
        about["iterations_per_epoch"],
        (about[key] for key in ("lr", "weight_decay", "teacher_temp")),
    )
    steps = about["epochs"] * each
    method = small(
        momentum=about["momentum"]["base"],
        warmup_teacher_temp=temperature["warmup_teacher_temp"],
        teacher_temp=temperature["teacher_temp"],
        warmup_teacher=temperature["warmup_teacher_temp_epochs"] / temperature["nepochs"],
    )
    peak, floor = lr["base"] * lr["total_batch"] / 256, lr["min"]
    found = {
        "momentum": [method.teacher_momentum(Progress(k, steps)) for k in range(steps)],
        "lr": [
            schedule(k, steps, lr["warmup_epochs"] * each, peak, lr["start_warmup_value"], floor, shape="table")
            for k in range(steps)
        ],
        "weight_decay": [schedule(k, steps, 0, decay["base"], end=decay["final"]) for k in range(steps)],
        "teacher_temp": [
            method.teacher_temperature(Progress(k, temperature["nepochs"])) for k in range(temperature["nepochs"])
        ],
    }
    for key, values in found.items():
        assert_close(torch.tensor(values, dtype=torch.float64), arrays[key], 1e-10, 0, key)
    assert_close(method.teacher_momentum(Progress(steps, steps)), about["momentum"]["final"], 1e-10, 0, "final")


def head_of(config):
    return Head(
        config["in_dim"],
        config["out_dim"],
        layers=config["nlayers"],
        hidden=config["hidden_dim"],
        bottleneck=config["bottleneck_dim"],
        bn=config["use_bn"],
        norm_last=config["norm_last_layer"],
    )


@pytest.mark.parametrize("name", cases("dino_head"))
def test_head_is_the_official_one(name):
    state, arrays, about = load(name)
    head = head_of(about["config"])
    assert set(head.state_dict()) == set(about["state_dict_keys"])
    head.load_state_dict(state)
    assert {n: p.requires_grad for n, p in head.named_parameters()} == about["requires_grad"]
    x = torch.as_tensor(arrays["x"]).requires_grad_()
    head.eval()
    y = head(x)
    assert_close(y, arrays["y_eval"], 1e-4, 1e-5)
    y.square().sum().backward()
    assert_close(x.grad, arrays["grad_x"], 1e-3, 1e-6)
    for n, parameter in head.named_parameters():
        want = about["grad_norm"][n]
        assert (parameter.grad is None) == (want is None), n
        if want is not None:
            assert_close(parameter.grad.norm(), want, 1e-3, 1e-6, n)
    before = {n: value.clone() for n, value in head.state_dict().items()}
    y = head.train()(x)
    assert_close(y, arrays["y_train"] if "y_train" in arrays else arrays["y_eval"], 1e-4, 1e-5)
    assert all(torch.equal(value, before[n]) for n, value in head.state_dict().items())
    for n in state:
        if n.endswith("num_batches_tracked"):  # one batch was trained on
            head.get_submodule(n.rpartition(".")[0]).take_in()
            assert head.get_buffer(n) == state[n] + 1


@pytest.mark.parametrize("name", cases("dino_vit"))
def test_initial_weights_have_the_official_statistics(name):
    about = load(name)[2]
    config, trunk, head = about["config"], about["init_stats"], about["init_stats_head"]
    (g, v), seeds = (
        (head[f"last_layer.weight_{x}"][4] for x in "gv"),
        trunk["norm.bias"][4] // about["config"]["embed_dim"],
    )
    first, hidden = head["mlp.0.weight"][4] // head["mlp.0.bias"][4], head["mlp.0.bias"][4] // seeds
    pooled = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        encoder = vit(
            config["img_size"][0],
            config["patch_size"],
            dim=config["embed_dim"],
            depth=config["depth"],
            heads=config["num_heads"],
        )
        method = DINO(encoder, out_dim=g // seeds, head_dim=hidden, bottleneck_dim=v // g)
        # the case's head stands behind another width than its trunk
        torch.manual_seed(seed)
        other = DINO(
            vit(16, 4, dim=first, depth=1, heads=1), out_dim=g // seeds, head_dim=hidden, bottleneck_dim=v // g
        )
        for n, p in [*method.encoder.trunk.named_parameters(), *other.head.named_parameters()]:
            pooled.setdefault(n, []).append(p.detach().flatten())
        assert all(torch.equal(p, q) for p, q in zip(method.teacher["encoder"].parameters(), encoder.parameters()))
    for n, (mean, std, low, high, number) in (trunk | head).items():
        values = torch.cat(pooled[n])
        assert len(values) == number, n
        assert float(values.mean()) == pytest.approx(mean, abs=8.5 * std / number**0.5 + 1e-7), (
            n
        )  # six errors of a difference
        if std == 0:
            assert values.min() == values.max() == pytest.approx(mean), n
        elif number > 2000:
            assert float(values.std()) == pytest.approx(std, rel=0.05), n
        if n in ("patch_embed.proj.weight", "last_layer.weight_v"):  # uniform: the bounds are sharp
            assert float(values.abs().max()) == pytest.approx(max(abs(low), abs(high)), rel=0.02), n


# -- the paper's words


def test_loss_by_hand():
    """Loops over images, teacher's views and student's views; independent of the code's own sums."""
    method = small(teacher_temp=0.07)
    torch.manual_seed(1)
    student, teacher = torch.randn(4, 2, 30), torch.randn(2, 2, 30)
    method.centre.normal_()
    total, pairs = 0.0, 0
    for image in range(2):
        for i in range(2):
            q = ((teacher[i, image] - method.centre[0]) / 0.04).softmax(dim=0)
            for j in range(4):
                if j != i:
                    p = (student[j, image] / 0.1).softmax(dim=0)
                    total += -float((q * p.log()).sum())
                    pairs += 1
    method.temperatures = (0.04, 0.04)
    loss, logs = method.compare(student, teacher, Progress())
    assert float(loss) == pytest.approx(total / pairs, rel=1e-5) and pairs == 2 * (2 * 4 - 2)
    assert float(logs["kl"] + logs["teacher_entropy"]) == pytest.approx(float(loss), rel=1e-6)


def test_two_and_eight_crops_make_eighteen_terms():
    method = small()
    student, teacher = torch.zeros(10, 1, 30), torch.zeros(2, 1, 30)
    assert float(method.compare(student, teacher, Progress())[0]) == pytest.approx(math.log(30))
    teacher[0, 0, 3] = 1e3  # all of the first target on dimension 3; a guess of it alone is right
    student[1:, 0, 3] = 1e3
    teacher[1] = teacher[0]
    loss = float(method.compare(student, teacher, Progress())[0])
    assert loss == pytest.approx(math.log(30) / 18, rel=1e-5)  # the first view is asked once, for the second target


def test_consecutive_crops_of_one_size_go_together(monkeypatch):
    method, seen = small(), []
    plain = type(method.encoder).class_token

    def class_token(self, images):
        seen.append(tuple(images.shape))
        return plain(self, images)

    monkeypatch.setattr(type(method.encoder), "class_token", class_token)
    a, b, c, d, e = views()
    output = method(Batch(a, crops=(b, c, d, e)), None, Progress())
    assert seen == [(6, 3, 16, 16), (9, 3, 8, 8), (6, 3, 16, 16)] and output.prediction.shape == (5, 3, 30)
    seen.clear()
    mixed = method(Batch(a, crops=(b, c, torch.rand(3, 3, 12, 12), d)), None, Progress())
    assert [size[0] for size in seen] == [6, 3, 3, 3, 6]
    assert torch.allclose(mixed.prediction[[0, 1, 2, 4]], output.prediction[:4], atol=1e-6)


def test_teacher_has_no_gradient_no_drop_path_and_follows():
    torch.manual_seed(0)
    method = DINO(vit(drop_path=0.5), **HEAD, momentum=0.9)
    assert all(block.drop_path1.__class__.__name__ == "Identity" for block in method.teacher["encoder"].trunk.blocks)
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert not any(n.startswith("teacher.") for n in trained) and "encoder.trunk.cls_token" in trained
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    before = method.teacher["encoder"].trunk.cls_token.clone()
    step(method, optimiser, views(), Progress(0, 10))
    own, theirs = method.encoder.trunk.cls_token, method.teacher["encoder"].trunk.cls_token
    assert not torch.equal(own, before)
    assert torch.allclose(theirs, 0.9 * before + 0.1 * own, atol=1e-7)  # the updated student, the first momentum
    method.after_step(Progress(10**9, 10**9))  # the last step: momentum 1
    assert torch.allclose(method.teacher["encoder"].trunk.cls_token, theirs, atol=1e-7)


def test_clipping_is_per_parameter_and_the_last_layer_waits():
    method = small(clip=0.01, freeze_last=0.25)
    for k, frozen in ((0, True), (1, False)):
        method.zero_grad()
        output = method(Batch(views()[0], crops=views()[1:]), None, Progress(k, 4))
        (100 * output.loss).backward()
        plain = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        method.before_step(Progress(k, 4))
        assert (method.head.last_layer.weight_v.grad is None) == frozen
        for n, p in method.named_parameters():
            if p.grad is not None:
                want = plain[n] * min(1.0, 0.01 / (float(plain[n].norm()) + 1e-6))
                assert torch.allclose(p.grad, want, atol=1e-7), n
        assert float(method.encoder.trunk.norm.weight.grad.norm()) == pytest.approx(0.01, rel=1e-3)
    method = small(clip=0.0, freeze_last=0.0)
    method(Batch(views()[0], crops=views()[1:]), None, Progress()).loss.backward()
    plain = method.head.last_layer.weight_v.grad.clone()
    method.before_step(Progress())
    assert torch.equal(method.head.last_layer.weight_v.grad, plain)


def test_forward_is_repeatable_and_moves_no_centre():
    method = small(head_bn=True)
    crops = views()
    before = {n: value.clone() for n, value in method.state_dict().items()}
    first = method(Batch(crops[0], crops=crops[1:]), None, Progress())
    torch.manual_seed(9)
    assert torch.equal(first.loss, method(Batch(crops[0], crops=crops[1:]), None, Progress()).loss)
    assert all(torch.equal(value, before[n]) for n, value in method.state_dict().items())
    method.after_step(Progress(1, 4))
    taught = outputs(method.teacher["encoder"], method.teacher["head"], crops[:2])
    assert taught.shape == (2, 3, 30)
    moved = {n for n, value in method.state_dict().items() if not torch.equal(value, before[n])}
    assert "centre" in moved and {n for n in moved if "running" in n or n == "centre"} == {
        n for n in before if "running" in n or n == "centre"
    }
    tracked = [value for n, value in method.state_dict().items() if n.endswith("num_batches_tracked")]
    assert tracked and all(int(value) == 1 for value in tracked)
    centre = method.centre.clone()
    method.after_step(Progress(2, 4))  # nothing was seen since
    assert torch.equal(method.centre, centre)


def test_running_statistics_are_torchs():
    torch.manual_seed(0)
    ours, theirs = head_of(dict(in_dim=6, out_dim=5, nlayers=2, hidden_dim=7, bottleneck_dim=4, use_bn=True, norm_last_layer=True)), torch.nn.BatchNorm1d(7)  # fmt: skip
    for seed in range(3):
        x = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed))
        ours(x), theirs(ours.mlp[0](x))
        ours.mlp[1].take_in()
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.mlp[1].state_dict()[name].float(), value.float(), atol=1e-6), name


def test_collapse_is_seen():
    method = small()
    alike = {"loss_uniform", "teacher_entropy", "student_entropy", "kl", "teacher_top_share", "centre_norm"}
    alike |= {"collapse_uniform", "collapse_constant"}

    def logs(student, teacher):
        found = method.compare(student, teacher, Progress())[1]
        assert found.keys() == alike and all(value.shape == () for value in found.values())
        return {n: float(value) for n, value in found.items()}

    torch.manual_seed(0)
    uniform = logs(torch.zeros(4, 8, 30), torch.zeros(2, 8, 30))
    assert uniform["collapse_uniform"] == 1 and uniform["collapse_constant"] == 0
    assert uniform["teacher_entropy"] == pytest.approx(uniform["loss_uniform"]) == math.log(30)
    assert uniform["student_entropy"] == pytest.approx(math.log(30)) and uniform["kl"] == pytest.approx(0, abs=1e-5)
    one = torch.zeros(4, 8, 30)
    one[..., 5] = 100.0
    constant = logs(one, one[:2])
    assert constant["collapse_constant"] == 1 and constant["collapse_uniform"] == 0
    assert constant["teacher_entropy"] == pytest.approx(0, abs=1e-5) and constant["teacher_top_share"] == 1
    healthy = torch.zeros(2, 8, 30)
    healthy[:, torch.arange(8), torch.arange(8)] = 1.0  # each image its own dimension
    found = logs(torch.randn(4, 8, 30), healthy)
    assert found["collapse_uniform"] == found["collapse_constant"] == 0 and found["kl"] > 0.1
    method.centre.fill_(2.0)
    assert logs(one, one[:2])["centre_norm"] == pytest.approx(2 * math.sqrt(30))


def test_deployed_is_the_teacher_and_can_be_trained():
    torch.manual_seed(0)
    method = DINO(vit(drop_path=0.3), **HEAD)
    method.teacher["encoder"].trunk.cls_token.data += 1.0
    found = method.deployed.eval()
    want = method.eval().teacher["encoder"](views()[0])[0]
    assert torch.equal(found(views()[0])[0], want) and not torch.equal(method.encoder(views()[0])[0], want)
    assert all(p.requires_grad for p in found.parameters())
    found.trunk.cls_token.data.zero_()
    assert torch.equal(method.teacher["encoder"](views()[0])[0], want)  # a copy
    fixed = DINO(vit(positions="sincos"), **HEAD).deployed
    assert [n for n, p in fixed.named_parameters() if not p.requires_grad] == ["trunk.pos_embed"]


def test_every_trained_weight_gets_a_gradient_without_local_crops_too():
    for crops in (views()[:2], views()):
        method = small(norm_last_layer=False, head_bn=True)
        method(Batch(crops[0], crops=crops[1:]), None, Progress()).loss.backward()
        assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_its_views_fit_its_patch():
    method = small()
    made = method.views(16, local_crops=2)
    assert isinstance(made, MultiCrop)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    crops = made(images, torch.Generator().manual_seed(0))
    assert [crop.shape[2] for crop in crops] == [16, 16, 8, 8]
    assert torch.isfinite(method(Batch(crops[0], crops=crops[1:]), None, Progress()).loss)
    with pytest.raises(Refused, match="local_size = 7 is no multiple of patch_size = 4; try 8"):
        method.views(16, local_size=7)


def test_overfits_a_teacher_that_stands_still():
    """With momentum 1 the targets of one batch are fixed, and different: the loss falls to their entropy."""
    method = small(momentum=1.0, centre_momentum=1.0, teacher_temp=0.2, warmup_teacher_temp=0.2, freeze_last=0.0)
    crops, kl = views(8), []
    optimiser = torch.optim.AdamW(decay_groups(method, 0.0), lr=5e-3)
    for parameter in method.teacher["encoder"].parameters():  # far from the student
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    for k in range(50):
        logs = step(method, optimiser, crops, Progress(k, 50)).logs
        kl.append(float(logs["kl"]))
    assert kl[-1] < 0.1 * kl[0], kl
    assert float(method.centre.norm()) == 0 and 0.1 < float(logs["teacher_entropy"]) < 0.9 * math.log(30)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out_dim": 1}, "out_dim = 1 is not a whole number from 2"),
        ({"head_layers": 0}, "head_layers = 0"),
        ({"teacher_temp": 0}, "teacher_temp = 0"),
        ({"freeze_last": 1.5}, "freeze_last = 1.5 is not a number from 0.0 to 1.0"),
        ({"momentum": 1.1}, "momentum = 1.1"),
        ({"clip": -1}, "clip = -1"),
    ],
)
def test_refuses_impossible_options(options, said):
    with pytest.raises(Refused, match=said):
        small(**options)


def test_refuses_what_cannot_work():
    with pytest.raises(Refused, match="takes none"):
        DINO(vit(), object(), **HEAD)
    with pytest.raises(Refused, match="class_token = True"):
        DINO(vit(class_token=False), **HEAD)
    with pytest.raises(Refused, match="vit family"):
        DINO(encoders.create("beit", 16, 4, dim=24, depth=1, heads=3), **HEAD)
    with pytest.raises(Refused, match="compares views of an image and got one"):
        small()(Batch(views()[0]), None, Progress())
    with pytest.raises(Refused, match="4-pixel patches"):
        small()(Batch(views()[0], crops=(torch.rand(3, 3, 10, 10),)), None, Progress())


# -- two processes


def run(crops, wrap=lambda method: method):
    """Losses and the last weights of four steps."""
    method = small(head_bn=True, norm_last_layer=False, momentum=0.9, freeze_last=0.25, clip=0.5)
    model, found = wrap(method), []
    optimiser = torch.optim.SGD(decay_groups(method, 0.04), lr=0.01)
    for k in range(4):
        output = model(Batch(crops[k][0], crops=crops[k][1:]), None, Progress(k, 4))
        optimiser.zero_grad()
        output.loss.backward()
        method.before_step(Progress(k, 4))
        optimiser.step()
        method.after_step(Progress(k + 1, 4))
        found.append(float(output.loss.detach()))
    return found, {n: value.clone() for n, value in method.state_dict().items()}


def worker(rank, world, port, crops, folder):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    rows = slice(rank * 2, (rank + 1) * 2)
    wrap = lambda method: torch.nn.parallel.DistributedDataParallel(method, broadcast_buffers=False)  # noqa: E731
    found = run([[crop[rows] for crop in one] for one in crops], wrap)
    with open(f"{folder}/{rank}.pkl", "wb") as handle:
        pickle.dump(found, handle)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, free_port):
    """The centre is that of the whole batch, and so are BatchNorm's statistics: losses, weights and buffers."""
    crops = [views(4, seed) for seed in range(4)]
    losses, weights = run(crops)
    mp.spawn(worker, (2, free_port, crops, str(tmp_path)), nprocs=2)
    ranks = [pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()) for rank in range(2)]
    for k in range(4):
        assert sum(found[0][k] for found in ranks) / 2 == pytest.approx(losses[k], rel=1e-5), k
    for name, value in weights.items():
        assert torch.equal(ranks[0][1][name], ranks[1][1][name]), name
        assert torch.allclose(ranks[0][1][name], value, atol=1e-5), name
    assert float(weights["centre"].norm()) > 0.1
