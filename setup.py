"""Package definition; `pip install -e '.[cpu]'` in a clone is the usual way to install."""

import os
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = os.path.dirname(os.path.abspath(__file__))


def read(*parts):
    path = os.path.join(HERE, *parts)
    if not os.path.isfile(path):
        return ''
    with open(path, encoding='utf-8') as f:
        return f.read()


VERSION = re.search(r"^__version__ = '([^']+)'", read('passl', '__init__.py'), re.M).group(1)


class BuildWithBases(build_py):
    """Puts configs/_base_ into the wheel, where `passl pretrain` finds its models without a clone (which keeps the only
    copy; an editable install reads that)."""

    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False):
            shutil.copytree(os.path.join(HERE, 'configs', '_base_'),
                            os.path.join(self.build_lib, 'passl', 'planning', '_base_'), dirs_exist_ok=True)


# Two needs of Paddle 2.6 that its own metadata does not state: fleet breaks with protobuf 7,
# and the launcher imports distutils, which Python 3.12 only has through setuptools.
PADDLE_NEEDS = ['protobuf>=3.20.2,<7', 'setuptools; python_version >= "3.12"']

setup(
    name='passl',
    version=VERSION,
    description='Self-supervised pre-training for dense prediction (DenseCL, MoCo, SimCLR) in PaddlePaddle',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9,<3.13',
    packages=find_packages(include=['passl', 'passl.*']),
    cmdclass={'build_py': BuildWithBases},
    package_data={'passl.report': ['page.html']},
    install_requires=[
        'pyyaml>=5.1',
        'numpy>=1.21',
        'opencv-python>=4.5',
        'Pillow>=9.0',
        'tqdm>=4.60',
        'visualdl>=2.5',
        'matplotlib>=3.5',
        'jinja2>=3.0',
    ],
    extras_require={
        'cpu': ['paddlepaddle>=2.6.2', *PADDLE_NEEDS],
        # PyPI carries paddlepaddle-gpu up to 2.6.2 (CUDA 11.8); docs/INSTALL.md has the way to newer ones.
        'gpu': ['paddlepaddle-gpu>=2.6.2', *PADDLE_NEEDS],
        # PaddleSeg holds OpenCV at 4.5, which was built for numpy 1.
        'seg': ['paddleseg==2.8.0', 'numpy<2', *PADDLE_NEEDS],
        # `passl export --to onnx`, in an environment of its own; with Paddle 2.6 use paddle2onnx 1.3.1
        'onnx': ['paddle2onnx>=1.3.1', 'onnxruntime>=1.16'],
        # superpixels, for the dense loss that compares regions
        'regions': ['scikit-image>=0.19'],
        # `passl visualize --embedding tsne` and `umap`
        'embedding': ['scikit-learn>=1.0', 'umap-learn>=0.5'],
        'test': ['pytest>=7.3', 'pytest-cov>=4.0', 'pytest-timeout>=2.1', 'pytest-xdist>=3.8', 'hypothesis>=6.0',
                 'scikit-image>=0.19', 'setuptools>=70.1'],         # which builds wheels by itself
        # what `make lint` and `make types` run
        'dev': ['ruff>=0.9', 'mypy>=1.8', 'types-PyYAML'],
    },
    entry_points={'console_scripts': ['passl = passl.cli:main']},
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
