import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;

/** A client in Java: java Client.java ADDRESS FOLDER */
public class Client {
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    private static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    private static HttpResponse<String> post(String url, String type, BodyPublisher body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).header("Content-Type", type).POST(body).build();
        return HTTP.send(request, BodyHandlers.ofString());
    }

    /** The response to a body, from a client of its own: each one offers HTTP/2 with its first request. */
    private static String encode(String address, String type, BodyPublisher body) throws Exception {
        HttpRequest request =
            HttpRequest.newBuilder(URI.create(address + "/encode")).header("Content-Type", type).POST(body).build();
        HttpResponse<String> response = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        check(response.statusCode() == 200, response.body());
        return response.body();
    }

    private static InputStream open(Path path) {
        try {
            return Files.newInputStream(path);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String address = arguments[0];
        Path folder = Path.of(arguments[1]);
        Path image = folder.resolve("picture.png");
        HttpResponse<String> encoded = post(address + "/encode", "image/png", BodyPublishers.ofFile(image));
        check(encoded.statusCode() == 200 && encoded.body().startsWith("{\"mean\":[["), encoded.body());
        check(encoded.headers().firstValue("X-Model-Digest").orElse("").length() == 64, "no digest");

        String mean = encoded.body().substring("{\"mean\":".length(), encoded.body().indexOf("]]") + 2);
        String latents = "{\"latents\":" + mean + "}";
        HttpResponse<String> decoded = post(address + "/decode", "application/json", BodyPublishers.ofString(latents));
        check(decoded.statusCode() == 200 && decoded.body().startsWith("{\"outputs\":[[["), decoded.body());

        HttpResponse<String> scored =
            post(address + "/free-energy?samples=16", "image/png", BodyPublishers.ofFile(image));
        check(scored.statusCode() == 200 && scored.body().contains("\"free_energy\":["), scored.body());

        HttpRequest sample = HttpRequest.newBuilder(URI.create(address + "/sample?n=4&format=png")).build();
        byte[] png = HTTP.send(sample, BodyHandlers.ofByteArray()).body();
        check(png[1] == 'P' && png[2] == 'N' && png[3] == 'G', "not a PNG");

        HttpResponse<String> refused = post(address + "/encode", "application/json", BodyPublishers.ofString("{"));
        check(refused.statusCode() == 400, "status " + refused.statusCode());
        check(refused.headers().firstValue("Content-Type").orElse("").equals("application/problem+json"), "no problem");

        // Streams have no length, so they are sent in chunks.
        BodyPublisher stream = BodyPublishers.ofInputStream(() -> open(image));
        System.out.println("{\"picture\":" + encoded.body()
            + ",\"json\":" + encode(address, "application/json", BodyPublishers.ofFile(folder.resolve("body.json")))
            + ",\"npy\":" + encode(address, "application/x-npy", BodyPublishers.ofFile(folder.resolve("body.npy")))
            + ",\"stream\":" + encode(address, "image/png", stream) + "}");
    }
}
