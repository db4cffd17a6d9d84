"""Two-view pipelines to compare with: torchvision itself, its formulas on Pillow, and PASSL v1's recipe.

Needs neither Paddle (PASSL v1's recipe excepted) nor this project, so that a Python with torchvision can run it as
a worker of `jobs`.
"""

import math
import os
import random
import sys
import time

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

SIZE, SCALE, RATIO = 224, (0.2, 1.0), (3 / 4, 4 / 3)
JITTER, HUE, SIGMA = 0.4, 0.1, (0.1, 2.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def decode(path):
    with Image.open(path) as img:
        return img.convert('RGB')


def crop_box(width, height):
    """torchvision's RandomResizedCrop: (left, top, width, height)."""
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(10):
        area, aspect = width * height * random.uniform(*SCALE), math.exp(random.uniform(low, high))
        w, h = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)       # within the ratios of photographs this is not reached
    return (width - side) // 2, (height - side) // 2, side, side


def crop(img):
    left, top, w, h = crop_box(*img.size)
    return img.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.BILINEAR)


def hue(img, shift):
    h, s, v = img.convert('HSV').split()
    turned = np.array(h, dtype=np.uint8)
    turned += np.uint8(int(shift * 255) % 256)
    return Image.merge('HSV', (Image.fromarray(turned, 'L'), s, v)).convert('RGB')


def jitter(img):
    steps = [lambda x, e=e: e(x).enhance(random.uniform(1 - JITTER, 1 + JITTER))
             for e in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)]
    steps.append(lambda x: hue(x, random.uniform(-HUE, HUE)))
    for step in random.sample(steps, 4):
        img = step(img)
    return img


def grey(img):
    level = img.convert('L')
    return Image.merge('RGB', (level, level, level))


def blur(img):
    return img.filter(ImageFilter.GaussianBlur(random.uniform(*SIGMA)))


def blur_v1(img):
    """PASSL v1: always a window of 23 x 23 pixels, through NumPy and OpenCV."""
    import cv2
    return Image.fromarray(cv2.GaussianBlur(np.asarray(img), (23, 23), random.uniform(*SIGMA)))


def finish(img):
    """ToTensor and Normalize: float32 CHW."""
    chw = np.ascontiguousarray(np.asarray(img).transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    return (chw - np.float32(MEAN).reshape(3, 1, 1)) / np.float32(STD).reshape(3, 1, 1)


def normalise_v1(chw):
    """PASSL v1's NormalizeImage."""
    return (chw.astype(np.float32) * np.float32(1 / 255) - np.float32(MEAN).reshape(3, 1, 1)) \
        / np.float32(STD).reshape(3, 1, 1)


def view(img):
    img = crop(img)
    if random.random() < 0.8:
        img = jitter(img)
    if random.random() < 0.2:
        img = grey(img)
    if random.random() < 0.5:
        img = blur(img)
    if random.random() < 0.5:
        img = ImageOps.mirror(img)
    return finish(img)


def batch(paths):
    """Two float32 arrays [N, 3, 224, 224]."""
    images = [decode(path) for path in paths]
    pairs = [(view(img), view(img)) for img in images]
    return [np.stack(views) for views in zip(*pairs)]


def passl_v1_batch():
    """The function paths -> two arrays of PASSL v1's recipe, which takes Paddle's own transforms on Pillow images."""
    from paddle.vision import transforms as T
    cropping, jittering = T.RandomResizedCrop(SIZE, scale=SCALE), T.ColorJitter(JITTER, JITTER, JITTER, HUE)
    flipping, transposing = T.RandomHorizontalFlip(), T.Transpose()

    def one_view(img):
        img = cropping(img)
        if random.random() < 0.8:
            img = jittering(img)
        if random.random() < 0.2:
            img = grey(img)
        if random.random() < 0.5:
            img = blur_v1(img)
        return normalise_v1(transposing(flipping(img)))

    def two_views(paths):
        pairs = []
        for path in paths:
            img = decode(path)
            pairs.append((one_view(img), one_view(img)))
        return [np.stack(views) for views in zip(*pairs)]
    return two_views


def torchvision_batch():
    """The function paths -> two Tensors [N, 3, 224, 224] of torchvision's own transforms; ImportError without."""
    import torch
    from torchvision import transforms as T
    torch.set_num_threads(1)

    class PilBlur:                  # as in the reference recipe of MoCo v2, which has no torchvision blur
        def __call__(self, img):
            return blur(img)

    recipe = T.Compose([T.RandomResizedCrop(SIZE, scale=SCALE),
                        T.RandomApply([T.ColorJitter(JITTER, JITTER, JITTER, HUE)], p=0.8),
                        T.RandomGrayscale(p=0.2), T.RandomApply([PilBlur()], p=0.5), T.RandomHorizontalFlip(),
                        T.ToTensor(), T.Normalize(MEAN, STD)])

    def two_views(paths):
        pairs = []
        for path in paths:
            img = decode(path)
            pairs.append((recipe(img), recipe(img)))
        return [torch.stack(views) for views in zip(*pairs)]
    return two_views


def cpu_seconds(function, *arguments):
    """CPU seconds of this process for one call: other processes do not count."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def main():
    """The requests 'seconds' (of the CPU, for a list of paths)."""
    import torchvision
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from benchmarks import jobs
    run = torchvision_batch()
    jobs.serve({'seconds': lambda paths: cpu_seconds(run, paths)}, {'torchvision': torchvision.__version__})


if __name__ == '__main__':
    main()
