# docker build -t gta .                                     with CUDA: run with --gpus all
# docker build -t gta --build-arg PIP_EXTRA_INDEX_URL=URL . for CPUs, URL as in README.md
# docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" gta finetune --data photos --model FILE
ARG BASE=python:3.12-slim
FROM ${BASE} AS build

ARG PIP_EXTRA_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/gta
WORKDIR /src
# The packages first: a change of the program does not install them again.
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY gtacli/report/static/uPlot.LICENSE gtacli/report/static/
RUN mkdir -p recipes && touch gtacli/__init__.py \
    && /opt/gta/bin/pip install -c constraints.txt '.[parquet,onnx]' \
    && /opt/gta/bin/pip uninstall --yes gtacli
COPY gtacli gtacli
COPY recipes recipes
RUN /opt/gta/bin/pip install --no-deps .

FROM ${BASE}
COPY --from=build /opt/gta /opt/gta
# Any user may run it, also one without an entry in /etc/passwd: caches lie where all may write.
ENV PATH=/opt/gta/bin:$PATH HOME=/home/gta PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --home-dir /home/gta --create-home gta \
    && chmod 1777 /home/gta \
    && install -d -m 1777 /work
USER 1000
WORKDIR /work
ENTRYPOINT ["gta"]
CMD ["--help"]
