import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Set;
import java.util.concurrent.Executors;

/** Passes requests on by Java's HttpClient with its default settings, for .ci/table.py: TableJava URL PORT */
class TableJava {
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final Set<String> OWN = Set.of("host", "connection", "expect", "content-length", "transfer-encoding");

    public static void main(String[] arguments) throws IOException {
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1])), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> pass(exchange, arguments[0]));
        server.start();
    }

    static void pass(HttpExchange exchange, String url) throws IOException {
        var told = exchange.getRequestHeaders();
        InputStream body = exchange.getRequestBody();
        var publisher = told.containsKey("Transfer-Encoding") ? BodyPublishers.ofInputStream(() -> body)
            : told.containsKey("Content-Length") ? BodyPublishers.ofByteArray(body.readAllBytes())
            : BodyPublishers.noBody();
        var request = HttpRequest.newBuilder(URI.create(url + exchange.getRequestURI()))
            .method(exchange.getRequestMethod(), publisher);
        told.forEach((name, values) -> {
            if (!OWN.contains(name.toLowerCase())) request.header(name, values.get(0));
        });
        var got = CLIENT.sendAsync(request.build(), BodyHandlers.ofLines()).join();
        try (exchange; var lines = got.body()) {
            got.headers().map().forEach((name, values) -> {
                if (!OWN.contains(name)) exchange.getResponseHeaders().put(name, values);
            });
            boolean isEmpty = exchange.getRequestMethod().equals("HEAD") || got.statusCode() == 204;
            exchange.sendResponseHeaders(got.statusCode(), isEmpty ? -1 : 0);
            for (var rest = lines.iterator(); rest.hasNext(); exchange.getResponseBody().flush()) {
                exchange.getResponseBody().write((rest.next() + "\n").getBytes());
            }
        }
    }
}
