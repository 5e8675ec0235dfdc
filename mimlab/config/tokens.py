"""Tokenizers side by side."""

from dataclasses import dataclass
from pathlib import Path

from mimlab.errors import Refused, shown
from mimlab.find import check_options, closest, find
from mimlab.settings import Settings, check_seed, place, setting, within


@dataclass(frozen=True)
class Tokens(Settings):
    """Tokenizers side by side, fitted to the same images and asked about the same others."""

    tokenizers: str = setting(
        "random_projection, random_patches, kmeans, dvae", "files in mimlab/tokenizers, separated by commas", many=True
    )
    tokenizer_args: dict = setting(
        {}, 'options by tokenizer, such as {"kmeans": {"centre": True}}; also a vocab of its own'
    )
    data: str = setting("emoji", "a file in mimlab/data: emoji, fashion_mnist, folder, hub, photographs")
    data_args: dict = setting({}, 'options of the data, such as {"path": "photos"}')
    image_size: int = setting(64, "pixels")
    patch_size: int = setting(8, "pixels of a patch, one token each; must divide image_size")
    vocab: int = setting(512, "size of the vocabularies")
    samples: int = setting(500, "images that tokens are counted on, of the test split; all if there are fewer")
    images: int = setting(4, "how many of them are shown")
    seed: int = setting(0, "of the vocabularies and the images")
    out: str = setting("runs", "the executed notebook goes into `out`/tokens")

    def resolved(self):
        """Every name and option checked; the images are counted, to see that there are enough patches for the vocabularies."""
        from mimlab import data, masks

        within("images", self.images, 1, 16)
        within("samples", self.samples, 2, 1_000_000)
        check_seed(self.seed)
        within("image_size", self.image_size, 2, 4096)
        within("patch_size", self.patch_size, 1, self.image_size, ", which is image_size")
        within("vocab", self.vocab, 2, 1_000_000)
        if self.image_size % self.patch_size:
            good = [str(p) for p in range(2, self.image_size) if self.image_size % p == 0]
            raise Refused(
                f"patch_size = {self.patch_size} does not divide image_size = {self.image_size}; try one of: {', '.join(good)}"
            )
        masks.check_grid(self.image_size, self.patch_size)
        names = self.names()
        for name in self.tokenizer_args:
            if name not in names:
                raise Refused(
                    f"tokenizer_args: {shown(name)} is not compared{closest(name, names)}; there are: {', '.join(names)}"
                )
        data.check(self.data, self.data_args)
        made = {name: self.made(name) for name in names}
        each = (self.image_size // self.patch_size) ** 2
        if all(tokenizer.vocab <= each for tokenizer in made.values()):  # one image is enough
            return self
        patches = data.count(self.data, "train", size=self.image_size, **self.data_args) * each
        for name, tokenizer in made.items():
            if tokenizer.vocab > patches and tokenizer.wanted():
                raise Refused(
                    f"vocab = {tokenizer.vocab}: {name} makes its vocabulary of patches, of which there are only {patches:,}; "
                    "use a smaller one, or more images"
                )
        return self

    def names(self):
        """The tokenizers to compare, in order."""
        found = list(dict.fromkeys(name.strip() for name in self.tokenizers.split(",") if name.strip()))
        if not found:
            raise Refused("tokenizers = '' names none; give names such as 'random_projection, kmeans'")
        for name in found:
            find("tokenizers", name)
        return found

    def options(self, name):
        """Vocabulary and options of one tokenizer: (int, dict)."""
        given = self.tokenizer_args.get(name, {})
        if not isinstance(given, dict):
            raise Refused(f"tokenizer_args: {name} = {shown(given)} is not a dict of options, such as {{}}")
        return given.get("vocab", self.vocab), {key: value for key, value in given.items() if key != "vocab"}

    @property
    def token_patch(self):
        """Pixels of a patch as a tokenizer sees it: 8 as in the paper (section 3.3), or the whole small patch."""
        return min(8, self.patch_size)

    def made(self, name):
        """The tokenizer `name` with its options, without numbers (`layers.weightless`), its files checked."""
        from mimlab.layers import weightless

        kind = find("tokenizers", name).Tokenizer
        vocab, options = self.options(name)
        check_options(f"tokenizer_args: {name}", options, kind)
        with weightless():
            tokenizer = kind(vocab, self.token_patch, **options)
        tokenizer.ready()
        return tokenizer

    def folder(self):
        return Path(place(self.resolved().out)) / "tokens"
