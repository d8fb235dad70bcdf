"""Kinds of images and masks."""

from __future__ import annotations

import io

import mutate

from kinds.base import Kind, pictures


class Images(Kind):
    """Every format that is found in a folder, in several modes."""

    def setup(self) -> None:
        from PIL import Image

        self.seeds: list[tuple[str, bytes]] = []

        def add(image, suffix, **options):
            file = io.BytesIO()
            image.save(file, options.pop("format"), **options)
            self.seeds.append((suffix, file.getvalue()))

        for image in pictures(2, 64):
            grey, palette = image.convert("L"), image.quantize(64)
            alpha = image.convert("RGBA")
            alpha.putalpha(grey)
            exif = Image.Exif()
            exif[0x0112] = 6
            add(image, ".jpg", format="JPEG", quality=85, exif=exif)
            add(image, ".jpg", format="JPEG", progressive=True)
            add(image.convert("CMYK"), ".jpg", format="JPEG")
            add(grey, ".jpg", format="JPEG")
            add(image, ".png", format="PNG")
            add(palette, ".png", format="PNG", transparency=3)
            add(alpha, ".png", format="PNG")
            add(grey.convert("I;16"), ".png", format="PNG")
            add(image, ".webp", format="WEBP")
            add(alpha, ".webp", format="WEBP", lossless=True)
            add(palette, ".gif", format="GIF", save_all=True, append_images=[palette, palette])
            for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
                add(image, ".tif", format="TIFF", compression=compression)
            add(grey.convert("1"), ".tif", format="TIFF", compression="group4")
            add(grey.convert("F"), ".tif", format="TIFF")
            add(image, ".bmp", format="BMP")
            add(palette, ".bmp", format="BMP")
            add(image, ".ppm", format="PPM")
        self.bytes = [data for _, data in self.seeds]

    def run(self, rng):
        from gtacli.images.decode import decode, load, read_upright_size

        suffix, data = self.seeds[0] if rng is None else rng.choice(self.seeds)
        path = self.write(
            "case" + suffix, data if rng is None else mutate.of_bytes(data, rng, self.bytes)
        )
        try:
            size = read_upright_size(path)
        except Exception as error:
            from gtacli.errors import GtaError

            if not isinstance(error, GtaError):
                raise
            size = None
        whole = decode(path)
        small = load(path, (48, 48))
        if small.ndim != 3 or small.shape[2] != 3 or str(small.dtype) != "uint8":
            return f"shape {small.shape} {small.dtype}"
        if size is not None and size != (whole.height, whole.width):
            return "read_upright_size says another size than decode gives"


class Masks(Images):
    """The same as ground truth."""

    def run(self, rng):
        from gtacli.data.truth import read_mask

        suffix, data = self.seeds[6] if rng is None else rng.choice(self.seeds)
        if rng is None:
            from PIL import Image

            file = io.BytesIO()
            Image.new("L", (8, 8), 255).save(file, "PNG")
            data, suffix = file.getvalue(), ".png"
        path = self.write(
            "case" + suffix, data if rng is None else mutate.of_bytes(data, rng, self.bytes)
        )
        read_mask(path)
