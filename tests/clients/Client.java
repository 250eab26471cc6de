import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;

/** A client in Java: java Client.java ADDRESS IMAGE */
public class Client {
    // The default version offers an upgrade to HTTP/2 in each request, which the server answers with 400.
    private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    private static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    private static HttpResponse<String> post(String url, String type, HttpRequest.BodyPublisher body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).header("Content-Type", type).POST(body).build();
        return HTTP.send(request, BodyHandlers.ofString());
    }

    public static void main(String[] arguments) throws Exception {
        String address = arguments[0];
        Path image = Path.of(arguments[1]);
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
        System.out.println("{\"mean\":" + mean.substring(2, mean.indexOf(',')) + "}");
    }
}
