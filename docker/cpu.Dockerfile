# irepdeploy without a GPU:
#
#     docker build -f docker/cpu.Dockerfile -t irepdeploy .
#     docker run --rm -v "$PWD:/work" -u "$(id -u)" irepdeploy demo --quick
#
# The continuous integration builds this image and runs the demo in it: `make images`.
FROM python:3.12 AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
# uv finds PyTorch's builds without CUDA, which are several gigabytes smaller.
RUN pip install --no-cache-dir uv==0.13.9 \
    && set -- /wheel/*.whl \
    && uv pip install --system --no-cache --torch-backend cpu -c /wheel/constraints.txt "${1}[report]" \
    && rm -r /wheel \
    && useradd --create-home --uid 1000 user \
    && install -d -o user /work
USER 1000
WORKDIR /work
ENTRYPOINT ["irepdeploy"]
CMD ["--help"]
