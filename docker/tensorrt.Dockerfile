# irepdeploy with TensorRT, on x86 with an NVIDIA GPU. The driver and the NVIDIA Container Toolkit belong to the host:
#
#     docker build -f docker/tensorrt.Dockerfile -t irepdeploy-trt .
#     docker run --rm --gpus all irepdeploy-trt doctor
#     docker run --rm --gpus all -v "$PWD:/work" -u "$(id -u)" irepdeploy-trt export model.onnx --trt
#
# Linted, but neither built nor run: no machine with docker and a GPU was at hand.
FROM python:3.12 AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
# The wheels of torch and tensorrt bring the libraries of CUDA that they need; the toolkit mounts the driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN set -- /wheel/*.whl \
    && pip install --no-cache-dir -c /wheel/constraints.txt "${1}[report,trt]" \
    && rm -r /wheel \
    && useradd --create-home --uid 1000 user \
    && install -d -o user /work
USER 1000
WORKDIR /work
ENTRYPOINT ["irepdeploy"]
CMD ["doctor"]
