# irepdeploy with TensorRT on x86 with an NVIDIA GPU. The host provides the driver and the NVIDIA Container Toolkit:
#
#     docker build -f docker/tensorrt.Dockerfile -t irepdeploy-trt .
#     docker run --rm --gpus all irepdeploy-trt doctor
#     docker run --rm --gpus all -v "$PWD:/work" -u "$(id -u)" irepdeploy-trt export model.onnx --trt
#
# Linted, but not yet built or run, for lack of a machine with Docker and a GPU.
FROM python:3.12 AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
# The wheels of torch and tensorrt include the CUDA libraries that they need; the toolkit mounts the driver.
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
