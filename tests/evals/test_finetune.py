"""Fine-tuning: official classifiers and parameter groups, and that it learns."""

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.errors import Refused
from mimlab.evals.finetune import Classifier, evaluate, layer_groups


def classifier(config, family):
    size = config["img_size"]
    options = {"dim": config["embed_dim"], "depth": config["depth"], "heads": config["num_heads"], "normalise": "none"}
    if family == "beit":
        bias = "per_block" if config["use_rel_pos_bias"] else "shared" if config["use_shared_rel_pos_bias"] else "none"
        options |= {"bias": bias, "absolute": config["use_abs_pos_emb"], "layer_scale": config["init_values"] or 0.0}
        pool = "mean" if config["use_mean_pooling"] else "cls"
    else:
        pool = "mean" if config["global_pool"] else "cls"
    encoder = encoders.create(family, size if isinstance(size, int) else tuple(size), config["patch_size"], **options)
    return Classifier(encoder, config["num_classes"], pool)


def official(name):
    """Our name of an official one."""
    return name if name.startswith(("head.", "fc_norm.")) else f"encoder.trunk.{name}"


@pytest.mark.parametrize("name", cases("mae_finetune") + cases("beit_finetune"))
def test_classifiers_give_the_official_features_and_logits(name):
    state, arrays, about = load(name)
    model = classifier(about["config"], "beit" if name.startswith("beit") else "vit").eval()
    weights = {official(n): v for n, v in state.items() if not n.endswith("relative_position_index")}
    assert set(weights) == set(model.state_dict())
    model.load_state_dict(weights)
    images = torch.as_tensor(arrays["images"])
    assert_close(model.features(images), arrays["features"], 3e-5, 1e-5)
    assert_close(model(images), arrays["logits"], 3e-5, 1e-5)
    if "last_block_tokens" in arrays:
        assert_close(model.encoder.tokens(images), arrays["last_block_tokens"], 3e-5, 1e-5)


@pytest.mark.parametrize("name", cases("schedules_layer_decay"))
@pytest.mark.parametrize("family", ["mae", "beit"])
def test_layer_decay_and_weight_decay_are_the_official_ones(name, family):
    about = load(name)[2]
    config = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": about["depth"], "num_heads": 3}
    config |= {"num_classes": 5, "global_pool": True, "use_mean_pooling": True, "use_rel_pos_bias": True}
    config |= {"use_shared_rel_pos_bias": False, "use_abs_pos_emb": False, "init_values": 0.1}
    model = classifier(config, "beit" if family == "beit" else "vit")
    own = {
        name: (group["scale"], group["weight_decay"])
        for group in layer_groups(model, about["depth"], 0.05, about["layer_decay"])
        for name in group["names"]
    }
    want = {n: tuple(v) for n, v in about[f"{family}_layer_scale_and_weight_decay"].items()}
    shared = [n for n in want if n in own]
    assert len(shared) == len(own), set(own) - set(want)
    for n in shared:
        assert own[n] == pytest.approx(want[n], rel=1e-9), n


class Dots:
    """Images whose class is the colour of a bright square: red, green, blue or white; enough of `Images` here."""

    classes = ("a", "b", "c", "d")

    def __init__(self, count, seed):
        random = np.random.default_rng(seed)
        self.labels = random.integers(0, 4, count)
        self.pixels = random.integers(0, 60, (count, 3, 16, 16), dtype=np.uint8)
        for image, label in zip(self.pixels, self.labels, strict=True):
            row, column = random.integers(0, 12, 2)
            image[label if label < 3 else slice(None), row : row + 4, column : column + 4] = 250

    def __len__(self):
        return len(self.labels)

    def require_labels(self):
        return self.labels

    def get(self, rows):
        return torch.from_numpy(self.pixels[np.asarray(rows)])

    def batches(self, batch):
        for start in range(0, len(self), batch):
            rows = slice(start, start + batch)
            yield torch.from_numpy(self.pixels[rows]), torch.from_numpy(self.labels[rows])


def test_learns_and_leaves_the_encoder_alone():
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=24, depth=2, heads=3)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    options = {
        "epochs": 20,
        "lr": 4e-2,
        "smoothing": 0.0,
        "batch": 32,
        "mixup": 0.0,
        "cutmix": 0.0,
        "scale": 1.0,
        "drop_path": 0.0,
        "layer_decay": 1.0,
    }
    numpy_state = np.random.get_state()[1].copy()
    found = evaluate(encoder, Dots(320, 0), Dots(60, 1), **options)  # fewer than 100 test images
    assert found["top1"] > 90 and found["top5"] == 100 and found["chance"] == 25
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert (np.random.get_state()[1] == numpy_state).all()


def test_same_seed_same_number_with_mixup():
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=12, depth=1, heads=2)
    one, two, other = (
        evaluate(encoder, Dots(64, 0), Dots(40, 1), epochs=4, batch=16, lr=0.1, seed=seed)["loss"] for seed in (3, 3, 4)
    )
    assert one == two != other


def test_refuses_what_cannot_work():
    encoder = encoders.create("vit", 16, 4, dim=12, depth=1, heads=2, class_token=False)
    with pytest.raises(Refused, match="class token"):
        evaluate(encoder, Dots(64, 0), Dots(10, 1), pool="cls")
    with pytest.raises(Refused, match="batch = 65"):
        evaluate(encoder, Dots(64, 0), Dots(10, 1), batch=65)
