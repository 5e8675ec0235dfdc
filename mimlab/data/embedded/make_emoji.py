"""Makes `emoji.zip` from Debian's fonts-noto-color-emoji and npm's emoji-datasource 16.0.0.

    python make_emoji.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf package/emoji.json

853 drawings of five groups, 64 x 64 RGBA, lossless WebP, with `index.json` inside. Emoji 16.0 came
after the font and is left out. Skin tones are variations in the data source, and flags are a group
of their own, so that neither appears. Needs a Pillow with raqm (eight drawings are joined sequences).
Prints the sha256 of the file, which is the fingerprint in `mimlab/data/emoji.py`.
"""

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GROUPS = ("Activities", "Animals & Nature", "Food & Drink", "Objects", "Travel & Places")
SIDE = 64


def draw(text, font):
    """One emoji as a 64 x 64 RGBA image, transparent around the drawing."""
    canvas = Image.new("RGBA", (136, 136))
    ImageDraw.Draw(canvas).text((0, 4), text, font=font, embedded_color=True)  # 136 x 128, padded square
    # RGBa is premultiplied: plain RGBA would bleed the black of transparent pixels into the edges
    return canvas.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGBA")


def main(font_file, table_file):
    font = ImageFont.truetype(font_file, 109)
    table = json.loads(Path(table_file).read_text(encoding="utf-8"))
    chosen = [e for e in table if e["category"] in GROUPS and e["has_img_google"] and e["added_in"] != "16.0"]
    rows, files = [], []
    for entry in sorted(chosen, key=lambda e: e["image"]):
        text = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        data = io.BytesIO()
        draw(text, font).save(data, "webp", lossless=True, quality=100, method=6, exact=False)
        name = entry["image"].replace(".png", ".webp")
        files.append((name, data.getvalue()))
        rows.append([name, entry["category"], entry["subcategory"], entry["short_name"]])
    index = {"columns": ["file", "label", "subcategory", "name"], "rows": rows}
    out = Path(__file__).parent / "emoji.zip"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as pack:
        for name, data in [*files, ("index.json", json.dumps(index, ensure_ascii=False, allow_nan=False).encode())]:
            pack.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)  # fixed dates: same bytes each time
    print(len(rows), hashlib.sha256(out.read_bytes()).hexdigest(), out.stat().st_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
