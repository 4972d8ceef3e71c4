// An SPI flash, as far as rtl/flash_loader.py uses one: commands AB and 03, mode 0. It is asleep at
// first, and holds the bytes of flash.hex, in the simulator's folder, from OFFSET on.

module spi_flash #(
    parameter OFFSET = 0,
    parameter BYTES = 1
) (
    input cs,
    input clk,
    input copi,
    output reg cipo
);
    reg [7:0] bytes [0:BYTES-1];
    initial $readmemh("flash.hex", bytes);

    reg awake;
    reg [31:0] command;
    reg [5:0] received;
    reg [26:0] sent;
    initial begin
        awake = 0;
        received = 0;
        sent = 0;
    end
    wire [31:0] at = {8'd0, command[23:0]} + {8'd0, sent[26:3]} - OFFSET;
    wire [7:0] value = at < BYTES ? bytes[at] : 8'hff;

    always @(posedge clk or negedge cs)
        if (!cs)
            received <= 0;
        else if (received < 32) begin
            command <= {command[30:0], copi};
            received <= received + 1;
        end

    always @(negedge clk or negedge cs)
        if (!cs)
            sent <= 0;
        else if (awake && received == 32 && command[31:24] == 8'h03) begin
            cipo <= value[~sent[2:0]];
            sent <= sent + 1;
        end

    // Sent alone or with what a flash answers with its identity after it.
    always @(negedge cs)
        if (command[31:24] == 8'hab)
            awake <= 1;
endmodule
